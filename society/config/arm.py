"""An arm of the experiment file: a name, or a variant that has values of its own for some keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from evals.arm_kinds import Data, OtherResponses
from providers.validation import format_errors
from society.config.values import Count, LabelSource, Section, Share

OwnValues = dict[str, Any]
"""Keys of one section that an arm has values of its own for, checked by `Config`."""

_SHARED_KEYS = {
    "society": ["agents", "rounds", "others", "models", "system_prompt", "personas", "thoughts"],
    "consensus": [],
    "datasets": [],
    "finetune": ["on_failure"],
}
"""The sections that arms may change, each with the keys that they may not change there."""


class ArmSection(Section):
    """A variant of an arm: `like` names that arm, the rest is what differs from it."""

    added = frozenset(_SHARED_KEYS)
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """The variant's own name, in tables, figures and `--arm`."""
    like: str
    """The arm that it is a variant of ([arms.md](arms.md))."""
    agents: Count | None = None
    """How many agents debate in this arm."""
    rounds: Count | None = None
    """Rounds of this arm's debates."""
    others: OtherResponses | None = None
    """How an agent is shown the other agents' responses."""
    w: Share | None = None
    """The arm's own `datasets.w`."""
    labels: LabelSource | None = None
    """The arm's own `consensus.labels`; `gold` learns from gold answers."""
    data: Data | None = None
    """What each model learns from: its own agent's turns, the turns of all agents, or as many turns
    of all agents as one agent has."""
    tune: Literal["both", "generators"] | None = None
    """Which models are trained."""
    society: OwnValues | None = None
    """The arm's own values for `early_end` and `skip_rounds`."""
    consensus: OwnValues | None = None
    """The arm's own values for keys of `[consensus]`."""
    datasets: OwnValues | None = None
    """The arm's own values for keys of `[datasets]`."""
    finetune: OwnValues | None = None
    """The arm's own values for keys of `[finetune]`, but `on_failure`."""

    @property
    def settings(self) -> dict[str, OwnValues]:
        """The keys with values of this arm's own, by section."""
        return {name: given for name in _SHARED_KEYS if (given := getattr(self, name))}


def merge_sections(config: BaseModel, entry: ArmSection) -> dict[str, Section]:
    """The sections of `config` that an arm changes, with its values.

    Raises ValueError that names each key that is wrong.
    """
    merged: dict[str, Section] = {}
    problems: list[str] = []
    for name, given in entry.settings.items():
        section: Section = getattr(config, name)
        if shared := sorted(given.keys() & set(_SHARED_KEYS[name])):
            problems.append(
                f"{name}.{shared[0]} cannot be an arm's own inside {name} = {{…}}"
                + (f"; write {shared[0]} = … beside like" if hasattr(entry, shared[0]) else "")
            )
            continue
        own = {key: getattr(section, key) for key in section.model_fields_set}
        try:
            merged[name] = type(section).model_validate({**own, **given})
        except ValidationError as error:
            problems += [f"{name}.{problem}" for problem in format_errors(error)]
    if problems:
        raise ValueError(f"arms: {entry.name!r}: {'; '.join(problems)}")
    return merged
