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
    Content,
    Owner,
    Quota,
    RowFilter,
    Shape,
    Side,
    choose_rows,
    find_examples,
    store_rows,
)
from finetune.errors import DatasetChanged
from finetune.mixture import Mixture, mix_conversations
from finetune.selection import TrainingSelection, select_rows
from store.bulk_insert import insert_rows
from store.ledger import Store
from store.records import AgentRole, Critics, Dataset, LossOn

__all__ = [
    "SHARED_AGENT",
    "DatasetRules",
    "Owner",
    "derive_dataset",
    "derive_datasets",
    "name_dataset",
]

_NOTHING: Mapping[Shape, str] = {
    "answers": "no answer to train on",
    "pairs": "no question with a right and a wrong answer, by its label",
    "feedback": "no answer to a question with a label",
}
# How the note of a dataset begins whose rows the user's own selection chose.
_CHOSEN_BY = "rows chosen by"


@dataclass(frozen=True, slots=True)
class DatasetRules:
    """How rows are selected.

    critics: "all" teaches a critic every conversation that ends at the label, "sample" the largest
        sample without repeats that has the fraction `w`.
    w: the fraction of corrected conversations in a critic's dataset; with "all" it is reached by
        weights, and without it all conversations weigh 1.
    repeat: the models' provider takes no weights, so rows are repeated instead.
    margin: the lowest and highest share of votes of labels that are learnt.
    margin_weights: rows weigh in proportion to that share.
    replay: how many earlier iterations are learnt again, and `replay_share` of their questions.
    novelty: the share of an agent's answers that is kept, those most unlike the other agents'.
    first_answers: critics also learn the generators' rows.
    critic_loss: "all" puts the loss on every assistant turn of a critic's conversation, "final"
        only on the last.
    max_examples: the most rows of each dataset.
    seed: decides which rows are taken if not all are.
    matched: give a pooled dataset only as many rows as one agent's own would have, the mean over
        the agents.
    selections: the user's own selections by role, in place of the built-in views.
    shape: learn answers, or which of two is better, or which are wanted.
    """

    critics: Critics = "all"
    w: float | None = None
    repeat: bool = False
    critic_loss: LossOn = "final"
    max_examples: int | None = None
    seed: int = 0
    matched: bool = False
    selections: Mapping[AgentRole, TrainingSelection] = field(default_factory=dict)
    margin: tuple[float, float] | None = None
    margin_weights: bool = False
    replay: int = 0
    replay_share: float = 1.0
    novelty: float | None = None
    first_answers: bool = False
    shape: Shape = "answers"

    def filter_rows(self, iteration: int) -> RowFilter:
        """Which of the trainable rows the datasets of an iteration choose from."""
        return RowFilter(
            first=max(1, iteration - self.replay),
            seed=self.seed,
            replay_share=self.replay_share,
            margin=self.margin,
            novelty=self.novelty,
            first_answers=self.first_answers,
        )


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
    selected = {
        role: select_rows(store, iteration, arm, rules.selections[role], role, replay=rules.replay)
        for role in sorted({role for _, role in owners} & rules.selections.keys())
    }

    def derive(connection: duckdb.DuckDBPyConnection) -> None:
        rows, shape = rules.filter_rows(iteration), rules.shape
        available = find_examples(
            connection, iteration, arm, selected, rows, shape=shape, pooled=True in pooled
        )
        role_rules = {role: rules for _, role in owners}
        if True in pooled:
            role_rules = {role: _limit_rules(rules, role, available) for role in role_rules}
            available = _pool_counts(available)
        planned = [
            _plan_dataset(iteration, arm, owner, role_rules[owner[1]], available)
            for owner in owners
        ]
        contents = _choose_rows(connection, planned, available, rules)
        fresh: list[Dataset] = []
        for plan in planned:
            dataset = plan.dataset
            complete = _complete_dataset(plan, contents.get(dataset.dataset_id), rules)
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """A dataset before its rows are chosen, and how many of each side it takes."""

    dataset: Dataset
    quotas: tuple[Quota, ...]


def _choose_rows(
    connection: duckdb.DuckDBPyConnection,
    planned: Sequence[_Plan],
    available: Mapping[Side, int],
    rules: DatasetRules,
) -> dict[str, Content]:
    return choose_rows(
        connection,
        [quota for plan in planned for quota in plan.quotas],
        available,
        rules.seed,
        repeat=rules.repeat,
        margin_weights=rules.margin_weights,
        by_side=rules.critics == "all" and rules.w is not None,
    )


def _complete_dataset(plan: _Plan, content: Content | None, rules: DatasetRules) -> Dataset:
    """The planned dataset with the number of its rows, repeats counted, and their hash."""
    dataset, sides = plan.dataset, content.sides if content else {}
    rows = content.sha256 if content else ""
    # What a model is trained on: which messages bear the loss, and the rows.
    sha256 = hashlib.sha256(f"{dataset.loss_on}\n{rows}".encode()).hexdigest()
    complete = replace(dataset, sha256=sha256, examples=sum(sides.values()))
    if dataset.critics is not None:
        corrected, kept = sides.get("corrected", 0), sides.get("kept", 0)
        complete = replace(complete, corrected=corrected, kept=kept)
    conversations = sum(quota.rows for quota in plan.quotas)
    if complete.examples == conversations:
        return complete
    note = (
        f"the provider takes no weights, so that {conversations} conversations come as "
        f"{complete.examples} rows"
    )
    if complete.corrected is not None and rules.w is not None:
        share = complete.corrected / complete.examples
        note += f", {share:.3f} of them corrected (w = {rules.w})"
    return replace(complete, note=note if dataset.note is None else f"{dataset.note}; {note}")


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
    """How many rows the dataset of an agent's role takes, and how a critic's are mixed."""
    if role == "generator" or rules.shape != "answers":
        found = available.get((agent, role, "all"), 0)
        return (found if rules.max_examples is None else min(found, rules.max_examples)), None
    mixture = mix_conversations(
        available.get((agent, role, "corrected"), 0),
        available.get((agent, role, "kept"), 0),
        rules.critics,
        rules.w,
        rules.max_examples,
    )
    return mixture.corrected + mixture.kept, mixture


def _plan_dataset(
    iteration: int, arm: str, owner: Owner, rules: DatasetRules, available: Mapping[Side, int]
) -> _Plan:
    agent, role = owner
    name = name_dataset(iteration, arm, agent, role)
    dataset = Dataset(
        dataset_id=name,
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
        note = None if examples else _NOTHING[rules.shape]
        quota = Quota(name, (agent, role, "all"), examples)
        return _Plan(replace(dataset, note=_write_note(rules, role, note)), (quota,))
    return _Plan(
        replace(
            dataset,
            critics=rules.critics,
            w=rules.w,
            note=_write_note(rules, role, mixture.note),
        ),
        (
            Quota(name, (agent, role, "corrected"), mixture.corrected, mixture.corrected_weight),
            Quota(name, (agent, role, "kept"), mixture.kept, mixture.kept_weight),
        ),
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
