"""Measuring how different the agents are: after an evaluation, or for a run that is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from evals import diversity, reading
from evals.diversity import EncoderUnavailable, Measurement, Memory, Progress, Wanted
from society.config.load import ConfigError
from society.config.schema import Config
from society.costs import budget
from society.costs.charges import Purpose, made_for
from society.method.connections import Connections
from society.runs.folder import RunFolder
from society.terminal.table import write
from store.ledger import Store
from store.records import Diversity, StageKey

_DEBATED = """
    select v.iteration, v.arm, q.task, v.decoding
    from votes v
    join questions q using (question_id)
    left join arms a using (arm)
    where v.split = 'eval' and not q.zero_shot
      and list_contains($decodings::varchar[], v.decoding)
      and ($arm is null or v.arm = $arm)
    group by all
    order by v.iteration, min(coalesce(a.position, 0)), v.arm, v.decoding desc
"""
_COLUMNS = (
    "iteration", "arm", "decoding", "role", "measure", "responses", "encoder",
    "value", "low", "high", "questions", "pairs", "note",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DiversityChoice:
    """What `society diversity` changes about the run's own `[diversity]`; None: as the run has it.

    `again` measures also what is stored already; `arm` only that one.
    """

    measures: tuple[str, ...] | None = None
    encoder: str | None = None
    questions: int | None = None
    decodings: tuple[str, ...] | None = None
    arm: str | None = None
    again: bool = False


def build_options(config: Config) -> Wanted:
    """What an experiment asks for."""
    section, sampling = config.diversity, config.sampling
    own = sampling.temperature == 1.0 and sampling.top_p == 1.0
    return Wanted(
        measures=section.measures,
        encoder=section.encoder,
        questions=section.questions,
        device=section.device,
        drawn=None if own else f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}",
    )


class DiversityProbe:
    """Measures the societies of one run. What arms have in common in an iteration, such as all of
    the untuned society, is computed once."""

    def __init__(self, store: Store, config: Config, connections: Connections) -> None:
        self._store = store
        self._section = config.diversity
        self._wanted = build_options(config)
        self._connections = connections
        self._memory = Memory()
        self._iteration = 0

    def planned(self, stage: StageKey, task: str, *, again: bool = False) -> Measurement | None:
        """What is left to be measured of the society that has debated `stage`; None: nothing."""
        if not self._wanted.measures or stage.decoding not in self._section.decodings:
            return None
        if stage.iteration != self._iteration:
            self._memory, self._iteration = Memory(), stage.iteration
        found = Measurement(
            self._store, self._connections, stage, task, self._wanted, self._memory, again=again
        )
        return found if found.todo else None

    async def measure(
        self, measurement: Measurement, on_progress: Progress = lambda done: None
    ) -> list[Diversity]:
        """Measure what is planned and store it; returns the new rows.

        Serves the tuned models that have to be asked. Raises the providers' errors, and
        `ConfigError` where the sentence encoder cannot be loaded; a later call goes on from there.
        """
        stage = measurement.stage
        purpose = Purpose("diversity", stage.iteration, stage.arm, stage.split, stage.decoding)
        if measurement.tuned_models:
            await self._connections.load_adapters(measurement.tuned_models)
        try:
            with made_for(purpose):
                return await measurement.carry_out(on_progress)
        except EncoderUnavailable as error:
            raise ConfigError(f"diversity.encoder: {error}") from error


async def measure_run(
    folder: RunFolder, store: Store, choice: DiversityChoice, on_society: Callable[[int, int], None]
) -> list[Diversity]:
    """Measure every evaluated society of a run, whatever of that is not stored yet.

    `on_society` is told how many societies of how many are done. Raises `ConfigError` where nothing
    is asked for or there is no such arm, and what `measure` raises.
    """
    config = _chosen(Config.from_json(reading.run_of(store).config), choice)
    section = config.diversity
    debated = [
        (StageKey(iteration, "eval", arm, decoding), task)
        for iteration, arm, task, decoding in store.rows(
            _DEBATED, {"decodings": list(section.decodings), "arm": choice.arm}
        )
    ]
    if not debated:
        raise ConfigError(
            f"run {folder.name!r} has no evaluated society"
            + (f" of an arm {choice.arm!r}" if choice.arm else "")
            + f" answering {' or '.join(section.decodings)}; see `society status {folder.name}`"
        )
    rows: list[Diversity] = []
    connections = budget.metered(Connections.open(config, folder.models), config, store)
    meter = DiversityProbe(store, config, connections)
    try:
        for number, (stage, task) in enumerate(debated):
            on_society(number, len(debated))
            if (found := meter.planned(stage, task, again=choice.again)) is not None:
                rows += await meter.measure(found)
        on_society(len(debated), len(debated))
    finally:
        await connections.close()
    return rows


def show(rows: Sequence[Diversity], stream: TextIO) -> None:
    """Print what was measured, one line per row."""
    if not rows:
        stream.write("nothing was left to be measured\n")
        return
    write(_COLUMNS, [[getattr(row, name) for name in _COLUMNS] for row in rows], "table", stream)


def _chosen(config: Config, choice: DiversityChoice) -> Config:
    given = {
        name: value
        for name in ("measures", "encoder", "questions", "decodings")
        if (value := getattr(choice, name)) is not None
    }
    section = config.diversity.model_copy(update=given)
    if not section.measures:
        raise ConfigError(
            f"the run's [diversity] asks for no measure; name some: --measure "
            f"{' --measure '.join(diversity.MEASURES)}"
        )
    if "embedding" in section.measures:
        try:
            diversity.check_encoder(section.encoder)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return config.model_copy(update={"diversity": section})
