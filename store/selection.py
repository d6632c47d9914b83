"""A part of a run, selected by arm, iteration, split, agent and role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from store.errors import InvalidQuery
from store.ledger import Store
from store.records import StageSplit

Role = Literal["generator", "critic", "summarizer"]

OF_TURNS = {
    "arm": "arm",
    "iteration": "iteration",
    "split": "split",
    "agent": "agent",
    "role": "CASE WHEN kind = 'summary' THEN 'summarizer' WHEN round = 1 THEN 'generator' "
    "ELSE 'critic' END",
}
OF_VOTES = {name: OF_TURNS[name] for name in ("arm", "iteration", "split")}
# A dataset has no column for its split: it is made of training debates only.
OF_DATASETS = {
    "arm": "arm",
    "iteration": "iteration",
    "split": "'train'",
    "agent": "agent",
    "role": "role",
}
# A base model has no arm, iteration, agent or role; it belongs to all of them.
OF_MODELS = {name: f"coalesce({name}, ${name})" for name in ("arm", "iteration", "agent", "role")}
OF_MODELS["split"] = "'train'"

# A value that occurs in none of these is a typing error.
_STORED = {
    "arm": "SELECT arm FROM turns UNION SELECT arm FROM datasets",
    "iteration": "SELECT iteration FROM turns UNION SELECT iteration FROM datasets",
    "agent": "SELECT agent FROM turns UNION SELECT agent FROM datasets",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """A part of a run; None leaves a dimension open, so that `Selection()` is the whole run.

        Selection(arm="multiagent", split="train", agent=2)

    `role` of a turn: who speaks, "generator" in round 1, "critic" later, "summarizer". `iteration`
    counts as in the tables: in split "train" the pass, in split "eval" the passes behind it.
    """

    arm: str | None = None
    iteration: int | None = None
    split: StageSplit | None = None
    agent: int | None = None
    role: Role | None = None

    @property
    def given(self) -> dict[str, object]:
        """The dimensions that are fixed, with their values."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def where(self, columns: Mapping[str, str]) -> tuple[str, dict[str, object]]:
        """A condition and its parameters; `columns` maps dimensions to SQL, one of the above.

        Raises `InvalidQuery` where a fixed dimension is none of the relation's.
        """
        for name in self.given:
            if name not in columns:
                raise InvalidQuery(
                    f"votes and debates are of all agents: {name} = {self.given[name]} selects none"
                )
        # `columns` holds SQL of this module only; what the user typed goes into the parameters.
        conditions = [f"{columns[name]} = ${name}" for name in self.given]
        return " AND ".join(conditions) or "true", self.given

    def check(self, store: Store) -> None:
        """Raise `InvalidQuery` for a value that occurs nowhere in the run."""
        for name, sql in _STORED.items():
            value = self.given.get(name)
            if value is None:
                continue
            known = sorted(found for (found,) in store.rows(sql))
            if value not in known:
                there = ", ".join(map(str, known)) or "none"
                raise InvalidQuery(f"no {name} {value} in this run; there: {there}")
