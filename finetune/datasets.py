"""One immutable dataset per (agent, role), derived from the stored debates for all agents at once.

A dataset holds references to turns, not texts. How many rows it has follows from `DatasetRules` and
`mixture`; which ones they are is decided in `dataset_rows`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import fmean

import duckdb

from finetune.dataset_rows import (
    SHARED_AGENT,
    Owner,
    Side,
    choose_rows,
    find_examples,
    store_rows,
)
from finetune.errors import DatasetChanged
from finetune.mixture import Mixture, compute_mixture
from finetune.selection import TrainingSelection, select_rows
from store.bulk_insert import insert_rows
from store.ledger import Store
from store.records import AgentRole, Dataset, LossOn

__all__ = [
    "SHARED_AGENT",
    "DatasetRules",
    "Owner",
    "derive_dataset",
    "derive_datasets",
    "name_dataset",
]

# How the note of a dataset begins whose rows the user's own selection chose.
_CHOSEN_BY = "rows chosen by"


@dataclass(frozen=True, slots=True)
class DatasetRules:
    """How rows are selected.

    w: the fraction of corrected conversations in a critic's dataset.
    critic_loss: "all" puts the loss on every assistant turn of a critic's conversation, "final"
        only on the last.
    max_examples: the most rows of each dataset.
    seed: decides which rows are taken if not all are.
    matched: give a pooled dataset only as many rows as one agent's own would have, the mean over
        the agents.
    selections: the user's own selections by role, in place of the built-in views.
    """

    w: float = 0.5
    critic_loss: LossOn = "final"
    max_examples: int | None = None
    seed: int = 0
    matched: bool = False
    selections: Mapping[AgentRole, TrainingSelection] = field(default_factory=dict)


def name_dataset(iteration: int, arm: str, agent: int, role: str) -> str:
    """A dataset's name, unique within a run."""
    return f"{arm}-a{agent}-{role}-it{iteration}"


def derive_dataset(
    store: Store, iteration: int, arm: str, agent: int, role: AgentRole, rules: DatasetRules
) -> Dataset:
    """One dataset; `derive_datasets` makes many in the time of one."""
    return derive_datasets(store, iteration, arm, [(agent, role)], rules)[agent, role]


def derive_datasets(
    store: Store, iteration: int, arm: str, owners: Sequence[Owner], rules: DatasetRules
) -> dict[Owner, Dataset]:
    """Derive and store the datasets of all `owners` (agent, role), in one transaction; blocks.

    Their rows come from the debates of one iteration of one arm. Agent `SHARED_AGENT` (0) gets the
    rows of all agents, for a model they share; it cannot be an owner beside single agents. Deriving
    a second time returns the stored datasets.

    Raises `DatasetChanged` if a stored dataset would now be different, and `SelectionRefused` as
    `selection.select_rows` does.

    ```python
    owners = [(agent, role) for agent in (1, 2, 3) for role in ("generator", "critic")]
    datasets = derive_datasets(store, 1, "multiagent", owners, DatasetRules(w=0.5))
    datasets[2, "critic"].examples  # how many conversations agent 2's critic trains on
    ```
    """
    if not owners:
        return {}
    pooled = {agent == SHARED_AGENT for agent, _ in owners}
    # Pooled and own rows differ in whose they are, which `find_examples` decides for all at once.
    if len(pooled) > 1:
        raise ValueError("a pooled dataset (agent 0) and single agents' cannot be derived together")
    derived: dict[Owner, Dataset] = {}
    # Before the transaction: the user's SQL runs on a copy of the debates with its own connection.
    own_selection = sorted({role for _, role in owners} & rules.selections.keys())
    selected = {
        r: select_rows(store, iteration, arm, rules.selections[r], r) for r in own_selection
    }

    def derive(connection: duckdb.DuckDBPyConnection) -> None:
        available = find_examples(connection, iteration, arm, selected, pooled=True in pooled)
        role_rules = {role: rules for _, role in owners}
        if True in pooled:
            role_rules = {role: _limit_rules(rules, role, available) for role in role_rules}
            available = _pool_counts(available)
        planned = [
            _plan_dataset(iteration, arm, owner, role_rules[owner[1]], available)
            for owner in owners
        ]
        digests = choose_rows(connection, planned, available)
        fresh: list[Dataset] = []
        for dataset in planned:
            complete = replace(dataset, sha256=_hash_content(dataset, digests))
            stored = store.dataset(dataset.dataset_id)
            if stored is None:
                fresh.append(complete)
            else:
                _require_equal(stored, complete)
            derived[dataset.agent, dataset.role] = stored or complete
        store_rows(connection)
        insert_rows(connection, fresh)

    store.transact(derive)
    return derived


def _hash_content(dataset: Dataset, digests: Mapping[str, str]) -> str:
    """SHA-256 (hex) of what a model is trained on: which messages bear the loss, and the rows."""
    content = f"{dataset.loss_on}\n{digests.get(dataset.dataset_id, '')}"
    return hashlib.sha256(content.encode()).hexdigest()


def _pool_counts(available: Mapping[Side, int]) -> dict[Side, int]:
    """How many rows all agents have together, by role and side."""
    pooled: Counter[Side] = Counter()
    for (_, role, side), count in available.items():
        pooled[SHARED_AGENT, role, side] += count
    return dict(pooled)


def _limit_rules(
    rules: DatasetRules, role: AgentRole, available: Mapping[Side, int]
) -> DatasetRules:
    """The rules of a pooled dataset: a matched one is bounded by the mean size of one agent's."""
    speakers = sorted({agent for agent, _, _ in available})
    if not rules.matched or not speakers:
        return rules
    # At least 1, since `max_examples` 0 is no bound that a mixture takes.
    sizes = [_compute_size(rules, role, agent, available)[0] for agent in speakers]
    return replace(rules, max_examples=max(1, round(fmean(sizes))))


def _compute_size(
    rules: DatasetRules, role: AgentRole, agent: int, available: Mapping[Side, int]
) -> tuple[int, Mixture | None]:
    """How many rows the dataset of an agent's role has, and how a critic's are mixed."""
    if role == "generator":
        found = available.get((agent, role, "all"), 0)
        return (found if rules.max_examples is None else min(found, rules.max_examples)), None
    mixture = compute_mixture(
        available.get((agent, role, "corrected"), 0),
        available.get((agent, role, "kept"), 0),
        rules.w,
        rules.max_examples,
    )
    return mixture.corrected + mixture.kept, mixture


def _plan_dataset(
    iteration: int, arm: str, owner: Owner, rules: DatasetRules, available: Mapping[Side, int]
) -> Dataset:
    agent, role = owner
    dataset = Dataset(
        dataset_id=name_dataset(iteration, arm, agent, role),
        iteration=iteration,
        arm=arm,
        agent=agent,
        role=role,
        examples=0,
        sha256="",
        loss_on=rules.critic_loss if role == "critic" else "final",
        seed=rules.seed,
        max_examples=rules.max_examples,
    )
    examples, mixture = _compute_size(rules, role, agent, available)
    if mixture is None:
        note = None if examples else "no answer to train on"
        return replace(dataset, examples=examples, note=_write_note(rules, role, note))
    return replace(
        dataset,
        examples=examples,
        corrected=mixture.corrected,
        kept=mixture.kept,
        w=rules.w,
        note=_write_note(rules, role, mixture.note),
    )


def _write_note(rules: DatasetRules, role: AgentRole, note: str | None) -> str | None:
    """`note`, with the selection that chose the rows, if the user gave one."""
    selection = rules.selections.get(role)
    if selection is None:
        return note
    chosen = f"{_CHOSEN_BY} {selection.name} (SHA-256 {selection.sha256[:12]})"
    return f"{chosen}; {note}" if note else chosen


def _read_selection_name(note: str | None) -> str | None:
    """The selection that a note names, None for the built-in views."""
    return note.partition(";")[0] if note and note.startswith(_CHOSEN_BY) else None


def _require_equal(stored: Dataset, derived: Dataset) -> None:
    """Raise `DatasetChanged` unless deriving a stored dataset again gave the same one."""
    # Another version of the software may word the note of the same rows in another way. Only the
    # selection that it names is part of the dataset.
    ignored = {"created_at": derived.created_at, "note": derived.note}
    same_way = _read_selection_name(stored.note) == _read_selection_name(derived.note)
    if same_way and replace(stored, **ignored) == derived:  # type: ignore[arg-type]
        return
    differing = [
        f"{name}: stored {getattr(stored, name)!r}, now {getattr(derived, name)!r}"
        for name in (field.name for field in fields(Dataset))
        if (name not in ignored or (name == "note" and not same_way))
        and getattr(stored, name) != getattr(derived, name)
    ]
    raise DatasetChanged(
        f"dataset {stored.dataset_id} is stored and would now be different "
        f"({'; '.join(differing)}); use another run name, or the settings it was made with"
    )
