"""Measuring the diversity of a run that has ended: `society diversity`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from evals import diversity, stored_run
from society.config.load import ConfigError
from society.config.schema import Config
from society.costs import budget
from society.method.connections import Connections
from society.method.diversity import DiversityProbe
from society.runs.folder import RunFolder
from society.terminal.table import write_json, write_rows
from store.ledger import Store
from store.measures import Diversity
from store.records import StageKey

_DEBATED = """
    select v.iteration, v.arm, q.task, v.decoding
    from votes v
    join questions q using (question_id)
    left join arms a using (arm)
    where v.split = 'eval' and not q.is_extra
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


async def measure_run(
    folder: RunFolder, store: Store, choice: DiversityChoice, on_society: Callable[[int, int], None]
) -> list[Diversity]:
    """Measure every evaluated society of a run, except for what is stored already.

    `on_society` gets how many societies are done, and of how many. Raises `ConfigError` if no
    measure is chosen or the run has no such arm, and what `DiversityProbe.measure` raises.
    """
    config = _apply_choice(Config.from_json(stored_run.load_run(store).config), choice)
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
    # Asking for likelihoods may cost something, and counts against the run's cap.
    rows: list[Diversity] = []
    connections = budget.budget_connections(Connections.open(config, folder.models), config, store)
    probe = DiversityProbe(store, config, connections)
    try:
        for number, (stage, task) in enumerate(debated):
            on_society(number, len(debated))
            # The probe plans only what is not stored, so a stopped measurement resumes.
            if (found := probe.plan(stage, task, again=choice.again)) is not None:
                rows += await probe.measure(found)
        on_society(len(debated), len(debated))
    finally:
        await connections.close()
    return rows


def show_measurements(rows: Sequence[Diversity], stream: TextIO, *, as_json: bool = False) -> None:
    """Print what was measured, one line per row, or one JSON object."""
    if as_json:
        found = [{name: getattr(row, name) for name in _COLUMNS} for row in rows]
        write_json({"measured": found}, stream)
        return
    if not rows:
        stream.write("nothing was left to be measured\n")
        return
    write_rows(
        _COLUMNS, [[getattr(row, name) for name in _COLUMNS] for row in rows], "table", stream
    )


def _apply_choice(config: Config, choice: DiversityChoice) -> Config:
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
    # Loading an encoder takes long; a wrong name is refused before that.
    if "embedding" in section.measures:
        try:
            diversity.check_encoder(section.encoder)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return config.model_copy(update={"diversity": section})
