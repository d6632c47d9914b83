"""One run: what it is, how far it is, how good its societies are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evals.agreement import DECIDED, VOTE_SHARES
from evals.choices import find_choice
from evals.intervals import Rate
from evals.stored_run import ArmSettings, choose_main_arm, find_main_arm, read_arms
from store.reader import Reader
from store.records import Choice, StageKey
from store.schema import read_view_sql

# The views of this software, not those in the file: an older file has older ones.
_ACCURACY = f"({read_view_sql('accuracy')}) AS a"
_READINGS = f"({read_view_sql('readings')}) AS r"
_CONVERSATIONS = f"({read_view_sql('conversations')}) AS c"
# In front of a query over `_CONVERSATIONS`, which reads this view: a run of an earlier version that
# answers its readers does not have it.
_LABEL_TIES = f"WITH label_ties AS ({read_view_sql('label_ties')})"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The run and its settings, the latter as pairs of dotted name and value."""

    name: str
    created_at: datetime
    finished_at: datetime | None
    seed: int
    task: str
    model: str
    iterations: int
    agents: int
    rounds: int
    settings: tuple[tuple[str, str], ...]
    versions: str
    leaked: int


@dataclass(frozen=True, slots=True)
class StageProgress:
    """One stage: debates done, of `expected` where that is known."""

    stage: StageKey
    task: str | None
    debates: int
    expected: int | None


@dataclass(frozen=True, slots=True)
class StageAccuracy:
    """One society under one decoding; a rate is None until it is known."""

    stage: StageKey
    task: str | None
    majority: Rate | None
    consensus: Rate | None


@dataclass(frozen=True, slots=True)
class StageVoting:
    """How the agents vote in one stage, as far as it is known without gold; shares 0 to 1.

    `known` counts the questions with gold; `first` and `last` are the mean shares of the readable
    answers that equal the plurality answer, in round 1 and in the last round; `first` is None in
    debates of one round.
    """

    stage: StageKey
    task: str | None
    questions: int
    known: int
    first: float | None
    last: float | None
    coverage: float
    ties: float


@dataclass(frozen=True, slots=True)
class Readings:
    """Shares 0 to 1 of all answers of one stage: those that cannot be read, those that are cut."""

    unparsed: float
    truncated: float


@dataclass(frozen=True, slots=True)
class StageLabels:
    """The pseudo-labels of one training pass; `below_quorum` counts questions with too few voters,
    `known` the labels whose question has gold."""

    iteration: int
    arm: str
    questions: int
    coverage: float
    tie_rate: float
    below_quorum: int | None
    known: int | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class JobCounts:
    """The jobs of one pass: how many there are and how many are done."""

    iteration: int
    arm: str
    jobs: int
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class StageSpending:
    """What one stage of the work has taken; `usd` is None where nothing is known of prices."""

    stage: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int | None
    usd: float | None
    unknown: int


@dataclass(frozen=True, slots=True)
class DiversityValue:
    """One measure of diversity, over all responses."""

    iteration: int
    arm: str
    role: str
    measure: str
    encoder: str
    value: float | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The quick part of the page of a run."""

    facts: RunFacts
    arms: tuple[ArmSettings, ...]
    progress: tuple[StageProgress, ...]
    accuracies: tuple[StageAccuracy, ...]
    votings: tuple[StageVoting, ...]
    labels: tuple[StageLabels, ...]
    trainings: tuple[JobCounts, ...]
    diversity: tuple[DiversityValue, ...]
    choices: tuple[Choice, ...]
    live: bool

    @property
    def main_arm(self) -> str:
        return choose_main_arm(self.arms).name

    def find_voting(self, stage: StageKey, task: str | None) -> StageVoting | None:
        """How the agents vote in this stage."""
        return next((v for v in self.votings if (v.stage, v.task) == (stage, task)), None)


@dataclass(frozen=True, slots=True)
class AgentInStage:
    """What one agent did in one stage: accuracies, what debating changed, dissent.

    `known` counts its debates with gold, `labelled` those with a label that no lot has decided;
    `to_right` and `to_wrong` are None in debates of one round. `unread` counts the debates in which
    its last answer cannot be read: it is not wrong then, has not turned wrong and does not dissent.
    """

    stage: StageKey
    task: str | None
    agent: int
    conversations: int
    known: int
    first_right: int
    last_right: int
    last_wrong: int
    to_right: int | None
    to_wrong: int | None
    labelled: int
    dissents: int
    unread: int


@dataclass(frozen=True, slots=True)
class FilterChoices:
    """The values that occur in a run, and its main arm."""

    main_arm: str
    arms: tuple[str, ...]
    iterations: tuple[int, ...]
    splits: tuple[str, ...]
    decodings: tuple[str, ...]
    tasks: tuple[str, ...]
    agents: tuple[int, ...]


def read_overview(reader: Reader) -> Overview | None:
    """What is quick to read on a large run too; None if the file holds no run yet."""
    facts = _read_facts(reader)
    if facts is None:
        return None
    arms = tuple(read_arms(reader))
    return Overview(
        facts,
        arms,
        tuple(_read_progress(reader)),
        tuple(_read_accuracies(reader)),
        tuple(StageVoting(StageKey(*row[:4]), *row[4:]) for row in reader.rows(_VOTINGS)),
        tuple(StageLabels(*row) for row in reader.rows(_LABELS)),
        tuple(JobCounts(*row) for row in reader.rows(_TRAININGS)),
        tuple(DiversityValue(*row) for row in reader.rows(_DIVERSITY)),
        tuple(choice for arm in arms if (choice := find_choice(reader, arm.name))),
        reader.running,
    )


def read_single_accuracies(reader: Reader) -> dict[tuple[StageKey, str | None], Rate]:
    """How often one agent alone is right in round 1, the mean over the agents, by stage and task.

    Reads all turns.
    """
    found = reader.rows(
        f"SELECT {_OF_STAGE}, task, accuracy, ci_low, ci_high, questions FROM {_ACCURACY} "
        "WHERE measure = 'single' AND agent IS NULL AND round = 1 AND split = 'eval'"
    )
    return {(StageKey(*row[:4]), row[4]): Rate(*row[5:]) for row in found}


def read_readings(reader: Reader) -> dict[tuple[StageKey, str | None], Readings]:
    """How many answers cannot be read and are cut, by stage and task. Reads all turns."""
    found = reader.rows(
        f"SELECT {_OF_STAGE}, task, sum(unparsed) / sum(answers), sum(truncated) / sum(answers) "
        f"FROM {_READINGS} WHERE agent IS NULL GROUP BY ALL"
    )
    return {(StageKey(*row[:4]), row[4]): Readings(*row[5:]) for row in found}


def read_spending(reader: Reader) -> list[StageSpending]:
    """Calls, tokens and money by kind of work. Reads all turns."""
    return [StageSpending(*row) for row in reader.rows(_SPENT)]


def read_agents(reader: Reader, arm: str | None, split: str, decoding: str) -> list[AgentInStage]:
    """Every agent in every pass of an arm (None: of all arms)."""
    # One split and decoding at a time: the view reads all turns of what the condition lets pass.
    condition = "split = $split AND decoding = $decoding"
    values: dict[str, object] = {"split": split, "decoding": decoding}
    if arm is not None:
        condition += " AND arm = $arm"
        values["arm"] = arm
    found = reader.rows(
        f"""
        {_LABEL_TIES}
        SELECT {_OF_STAGE}, task, agent, count(*), count(correct),
            count_if(first_correct), count_if(correct),
            count_if(NOT correct AND answer IS NOT NULL),
            if(max(rounds) < 2, NULL, count_if(correct AND NOT first_correct)),
            if(max(rounds) < 2, NULL,
                count_if(first_correct AND NOT correct AND answer IS NOT NULL)),
            count(agrees) FILTER (NOT tied),
            count_if(NOT agrees AND NOT tied AND answer IS NOT NULL),
            count_if(answer IS NULL)
        FROM {_CONVERSATIONS} WHERE {condition}
        GROUP BY ALL ORDER BY arm, task, iteration, agent
        """,
        values,
    )
    return [AgentInStage(StageKey(*row[:4]), *row[4:]) for row in found]


def list_choices(reader: Reader) -> FilterChoices:
    """What the run's debates can be filtered by."""
    stages = [
        StageKey(*row)
        for row in reader.rows(f"SELECT DISTINCT {_OF_STAGE} FROM votes ORDER BY ALL")
    ]
    order = {row[0]: row[1] for row in reader.rows("SELECT arm, position FROM arms")}
    tasks = reader.rows("SELECT DISTINCT task FROM questions ORDER BY task")
    ((agents,),) = reader.rows("SELECT max(agent) FROM turns")
    return FilterChoices(
        find_main_arm(reader),
        tuple(sorted({stage.arm for stage in stages}, key=lambda arm: (order.get(arm, -1), arm))),
        tuple(sorted({stage.iteration for stage in stages})),
        tuple(sorted({stage.split for stage in stages})),
        tuple(sorted({stage.decoding for stage in stages}, reverse=True)),
        tuple(task for (task,) in tasks),
        tuple(range(1, (agents or 0) + 1)),
    )


_OF_STAGE = "iteration, split, arm, decoding"
_LABELS = """
    SELECT iteration, arm, questions, coverage, tie_rate, below_quorum::BIGINT, known,
        label_accuracy
    FROM pseudo_labels ORDER BY arm, iteration
"""
_VOTINGS = f"""
    WITH {DECIDED}
    SELECT {_OF_STAGE}, task, {VOTE_SHARES}
    FROM decided LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    GROUP BY ALL ORDER BY arm, task, decoding DESC, iteration
"""
_TRAININGS = """
    SELECT iteration, arm, count(*), count_if(status IN ('succeeded', 'skipped')),
        count_if(status IN ('failed', 'cancelled'))
    FROM jobs GROUP BY ALL ORDER BY arm, iteration
"""
_DIVERSITY = """
    SELECT iteration, arm, role, measure, encoder, value, note FROM diversity
    WHERE split = 'eval' AND responses = 'all' ORDER BY measure, encoder, arm, role, iteration
"""
# The last column counts what has no price: without it, the sum would look complete.
_SPENT = """
    SELECT stage, sum(calls)::BIGINT, sum(prompt_tokens)::BIGINT, sum(completion_tokens)::BIGINT,
        sum(trained_tokens)::BIGINT, sum(usd), count(*) - count(usd)
    FROM spend GROUP BY stage ORDER BY stage
"""
# Every debate has exactly one vote of round 1, so counting these counts the debates.
_STAGES = f"""
    SELECT {_OF_STAGE}, task, count(*)
    FROM votes LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    WHERE round = 1 GROUP BY ALL ORDER BY arm, iteration, split DESC, decoding DESC, task
"""


def _read_facts(reader: Reader) -> RunFacts | None:
    found = reader.rows(
        "SELECT name, created_at, finished_at, seed, config::VARCHAR, versions::VARCHAR FROM runs"
    )
    if not found:
        return None
    name, created_at, finished_at, seed, config, versions = found[0]
    settings = json.loads(config)
    ((leaked,),) = reader.rows("SELECT count(DISTINCT eval_question_id) FROM allowed_overlaps")
    society = settings.get("society", {})
    return RunFacts(
        name,
        created_at,
        finished_at,
        seed,
        str(settings.get("task", {}).get("name", "")),
        str(settings.get("model", "")),
        int(settings.get("iterations", 0)),
        int(society.get("agents", 0)),
        int(society.get("rounds", 0)),
        tuple(_flatten(settings)),
        ", ".join(f"{package} {number}" for package, number in json.loads(versions).items()),
        leaked,
    )


# Questions without an iteration are asked in every one; fresh training questions belong to one.
def _read_progress(reader: Reader) -> Iterator[StageProgress]:
    asked = reader.rows("SELECT split, task, iteration, count(*) FROM questions GROUP BY ALL")
    for iteration, split, arm, decoding, task, debates in reader.rows(_STAGES):
        expected = sum(
            number
            for of, its_task, made_for, number in asked
            if (of, its_task) == (split, task) and made_for in (None, iteration)
        )
        yield StageProgress(
            StageKey(iteration, split, arm, decoding), task, debates, expected or None
        )


def _read_accuracies(reader: Reader) -> Iterator[StageAccuracy]:
    found = reader.rows(
        f"SELECT {_OF_STAGE}, task, measure, accuracy, ci_low, ci_high, total FROM {_ACCURACY} "
        "WHERE measure <> 'single' AND split = 'eval' "
        "ORDER BY arm, task, decoding DESC, iteration"
    )
    rates: dict[tuple[StageKey, str | None], dict[str, Rate]] = defaultdict(dict)
    for row in found:
        rates[StageKey(*row[:4]), row[4]][row[5]] = Rate(*row[6:])
    for (stage, task), measured in rates.items():
        yield StageAccuracy(stage, task, measured.get("majority"), measured.get("consensus"))


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None and value not in ({}, []):
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
