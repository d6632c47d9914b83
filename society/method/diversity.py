"""Measuring how different the agents of a society are, after its evaluation."""

from __future__ import annotations

from evals.diversity import Cache, DiversityOptions, EncoderUnavailable, Measurement, Progress
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.connections import Connections
from society.method.purpose import Purpose, spend_for
from store.ledger import Store
from store.measures import Diversity
from store.records import StageKey


def build_options(config: Config) -> DiversityOptions:
    """What the section `[diversity]` asks for."""
    section, sampling = config.diversity, config.sampling
    drawn = {
        own.describe() for own in sampling.by_agent or (sampling,) if not own.draws_from_the_model
    }
    return DiversityOptions(
        measures=section.measures,
        encoder=section.encoder,
        questions=section.questions,
        device=section.device,
        drawn="; ".join(sorted(drawn)) or None,
    )


class DiversityProbe:
    """Measures the societies of one run.

    What several arms have in common in an iteration, such as the untuned society, is computed once.
    """

    def __init__(self, store: Store, config: Config, connections: Connections) -> None:
        self._store = store
        self._section = config.diversity
        self._options = build_options(config)
        self._connections = connections
        self._cache = Cache()
        self._iteration = 0

    def plan(self, stage: StageKey, task: str, *, again: bool = False) -> Measurement | None:
        """What is still to be measured of the society that has debated `stage`; None: nothing."""
        if not self._options.measures or stage.decoding not in self._section.decodings:
            return None
        # The memory holds embeddings and likelihoods of one iteration's models only; the models of
        # the next one are others, so nothing of it could be used again.
        if stage.iteration != self._iteration:
            self._cache, self._iteration = Cache(), stage.iteration
        found = Measurement(
            self._store, self._connections, stage, task, self._options, self._cache, again=again
        )
        return found if found.todo else None

    async def measure(
        self, measurement: Measurement, on_progress: Progress = lambda done: None
    ) -> list[Diversity]:
        """Carry out a measurement and store it; returns the new rows.

        Loads the adapters it needs. Raises the providers' errors, and `ConfigError` where the
        sentence encoder cannot be loaded; a later call resumes the measurement.
        """
        stage = measurement.stage
        purpose = Purpose("diversity", stage.iteration, stage.arm, stage.split, stage.decoding)
        if measurement.tuned_models:
            await self._connections.load_adapters(measurement.tuned_models)
        try:
            with spend_for(purpose):
                return await measurement.carry_out(on_progress)
        except EncoderUnavailable as error:
            raise ConfigError(f"diversity.encoder: {error}") from error
