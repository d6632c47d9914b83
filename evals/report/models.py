"""Which tuned models the main arm's society consists of, and how they are loaded elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.choices import find_society
from evals.loading_code import write_loading_code
from evals.report.seeds import SeedRun

# The newest model of every agent and role: a model that an iteration has not tuned stays. Agent 0
# stands for all agents.
_MODELS = """
    select agent, role, iteration, model_id, provider, artifact
    from models
    where arm = ? and iteration <= ? and artifact is not null and role is not null
    qualify row_number() over (
        partition by agent, role order by iteration desc, created_at desc, model_id) = 1
    order by agent, role desc
"""
# Addresses of models that are files: the built-in one and one of the user's own.
_BUILT_IN, _OWN = "embedded:", "local:"


@dataclass(frozen=True, slots=True)
class TunedModel:
    """One model of the society of one run. `address` is that of its base, `artifact` its folder in
    the run's `models/`, or its name at its provider. `agent` 0: all agents'."""

    run: str
    agent: int
    role: str
    iteration: int
    model_id: str
    address: str
    artifact: str

    @property
    def place(self) -> str:
        """The folder, from the one that holds `runs/`; a remote model's name."""
        # A page must not name the machine it was made on.
        return f"runs/{self.run}/models/{self.artifact}" if self.is_file else self.artifact

    @property
    def is_file(self) -> bool:
        # A model that a server trained is named by its own address, also in a local run.
        return self.address.startswith((_BUILT_IN, _OWN)) and "://" not in self.artifact


def read_models(runs: Sequence[SeedRun], arm: str) -> tuple[TunedModel, ...]:
    """Those of the chosen society where one was chosen, else of the last; run by run."""
    return tuple(
        TunedModel(run.name, agent, role, iteration, model_id, address, artifact)
        for run in runs
        for agent, role, iteration, model_id, address, artifact in run.store.rows(
            _MODELS, [arm, find_society(run.store, arm)]
        )
    )


def show_loading_code(model: TunedModel, *, full: bool) -> str | None:
    """Python that loads a model that is a folder; None for one that its provider keeps.

    `full`: the folder holds a whole model and no adapter.
    """
    if not model.is_file:
        return None
    return write_loading_code(model.place, None if full else model.address.removeprefix(_OWN))
