"""Answers that cannot be read: why, what can be done about it, and when a run stops for it.

A run that pays for answers which cannot be read stops early. `stop_if_unread` in the experiment
file says after how many answers of a stage without a single readable one; 0 never stops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten

from evals.answers.thoughts import strip_thoughts
from evals.tasks.base import Task
from finetune.plans import TuningPlan
from providers.base import Provider
from providers.errors import RunError
from store.ledger import Store
from store.records import IN_STAGE, StageKey, Turn

_SAMPLES = 3
_SAMPLE_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Cause:
    """What was wrong with an answer, and the remedy."""

    text: str
    remedy: str


def find_cause(turn: Turn, task: Task) -> Cause:
    """Why `turn` has no answer."""
    if turn.failure is not None:
        return Cause(f"the request failed: {turn.error}", "remove the cause")
    if not turn.response.strip():
        # The provider's own message knows more than the finish reason, and names the remedy.
        return Cause(f"empty: {turn.error or turn.finish_reason}", "")
    match turn.finish_reason:
        case "length":
            return _find_cause_of_cut(turn.response, task)
        case "refused":
            return Cause("the model refuses to answer", "take another model or task.template")
        case "filtered":
            return Cause("withheld by a content filter", "take another model or server")
        case "stop":
            form = task.answer_form.strip()
            return Cause(
                f"the answer is in another form than the task asks for ({form})",
                "take a model that follows the form, or a task.template or kind of answer that "
                "suits it",
            )
    return Cause(f"ended as {turn.finish_reason!r}", "look at the server's log")


def _find_cause_of_cut(response: str, task: Task) -> Cause:
    # A thought after which something was said already.
    if strip_thoughts(response).unfinished:
        return Cause(
            "cut off while the model was still reasoning",
            "raise sampling.max_tokens, or switch the model's reasoning off "
            "(provider.reasoning_effort, provider.chat_template_kwargs)",
        )
    if task.extract(response) is not None:
        return Cause(
            "the answer is there and the model writes on until it is cut off: it never ends its "
            "turn",
            "give the model or its server the chat template and the end token that it was trained "
            "with, or raise sampling.max_tokens if the answers are only long",
        )
    return Cause("cut off before the answer", "raise sampling.max_tokens")


def describe_unread_answers(turns: Iterable[Turn], task: Task) -> str:
    """The causes, most frequent first, each with its remedy, and what such answers look like."""
    unread = list(turns)
    causes = Counter(find_cause(turn, task) for turn in unread)
    lines = [
        f"  {count} × {cause.text}" + (f": {cause.remedy}" if cause.remedy else "")
        for cause, count in causes.most_common()
    ]
    # Empty responses show nothing; their causes are listed above.
    samples = [turn for turn in unread if turn.response.strip()][:_SAMPLES]
    for turn in samples:
        where = f"question {turn.question_id}, agent {turn.agent}, round {turn.round}"
        text = shorten(turn.response, _SAMPLE_LENGTH, placeholder=" …")
        lines.append(f"  {where} ({turn.finish_reason}): {text!r}")
    return "\n".join(lines)


_NOTES_AT_MOST = 5
_EXAMINED_AT_MOST = 1000
_WHAT_NOW = (
    "stored answers are kept. Other settings of [sampling], [task] or the model need a new run "
    "(--name); after a change at the server start this run again; stop_if_unread = 0 never "
    "stops for this"
)

_READ = f"SELECT count(answer), count(*) FROM turns WHERE {IN_STAGE} AND kind = 'answer'"
# The vote that labels, of every training debate: how many have a label, no readable answer, a tie.
_LABELS = """
SELECT count(*), count(answer), count(*) FILTER (voters = 0),
    count(*) FILTER (answer IS NULL AND tie)
FROM label_votes
WHERE iteration = ? AND arm = ?
"""


class NothingReadable(RunError):
    """None of a stage's answers can be read."""


class NothingTrainable(RunError):
    """An iteration has nothing that any model could be trained on."""


class ReadingMonitor:
    """How well the answers of one stage can be read, while they come in.

    Turns in `again` are not counted: they failed before, one by one.
    """

    def __init__(self, stage: str, task: Task, first: int, again: Collection[int]) -> None:
        self._stage = stage
        self._task = task
        self._first = first
        self._again = again
        self._answers = 0
        self._unread: list[Turn] = []
        self._errors: Counter[str] = Counter()
        self._problem: NothingReadable | None = None

    def add(self, turn: Turn) -> str | None:
        """Count one answer; returns a note about its error, if the error is a new one."""
        if turn.kind == "answer" and turn.turn_id not in self._again:
            self._answers += 1
            if turn.answer is None:
                self._unread.append(turn)
        if turn.error is None:
            return None
        self._errors[turn.error] += 1
        # A vendor's outage gives thousands of equal errors; the log needs each text once.
        if self._errors[turn.error] > 1 or len(self._errors) > _NOTES_AT_MOST:
            return None
        return f"{turn.question_id}, agent {turn.agent}: {turn.error}"

    def stop(self) -> NothingReadable | None:
        """Why the run has to stop now, if it has to."""
        unread = len(self._unread)
        # One readable answer is enough to continue: some models are simply bad at the task.
        if self._problem is None and self._first and unread == self._answers >= self._first:
            self._problem = NothingReadable(
                f"none of the first {unread} answers of the stage {self._stage!r} could be read, "
                f"so the run stops before it asks for more (stop_if_unread = {self._first}):\n"
                f"{describe_unread_answers(self._unread, self._task)}\n{_WHAT_NOW}"
            )
        return self._problem

    def summary(self) -> str | None:
        """How many answers of the stage have not been read and why, None where all have."""
        if not self._unread:
            return None
        causes = Counter(find_cause(turn, self._task).text for turn in self._unread)
        why = "; ".join(f"{count} × {text}" for text, count in causes.most_common(_NOTES_AT_MOST))
        return f"{len(self._unread)} of {self._answers} answers could not be read: {why}"


def require_read(store: Store, stage: StageKey, name: str, task: Task) -> None:
    """Raise `NothingReadable` where a complete stage has answers and none of them could be read."""
    [(read, answers)] = store.rows(_READ, stage.params)
    if read or not answers:
        return
    why = describe_unread_answers(_unread(store, stage), task)
    raise NothingReadable(
        f"none of the {answers} answers of the stage {name!r} could be read, so the run "
        f"cannot continue:\n{why}\n{_WHAT_NOW}"
    )


def require_examples(
    store: Store,
    plans: Sequence[TuningPlan],
    providers: Mapping[str, Provider],
    task: Task,
) -> None:
    """Raise `NothingTrainable` if no model of an iteration has enough examples, because most
    training questions have no label."""
    least = [max(1, providers[plan.start.address].capabilities.min_examples) for plan in plans]
    # One model that can be trained is enough: small datasets of single agents are usual, and such
    # an agent keeps its model.
    if any(p.dataset.examples >= n for p, n in zip(plans, least, strict=True)) or not plans:
        return
    iteration = plans[0].iteration
    lines, starved, tied = [], False, False
    for arm in dict.fromkeys(plan.arm for plan in plans):
        [(questions, labels, unread, ties)] = store.rows(_LABELS, [iteration, arm])
        starved = starved or 2 * labels < questions
        agents = len({plan.agent for plan in plans if plan.arm == arm})
        tied = tied or (ties > labels // 2 and agents % 2 == 0)
        lines.append(
            f"  {arm}: {labels} of {questions} training questions have a label; {unread} have no "
            f"answer that can be read, {ties} are tied, {questions - labels - unread - ties} have "
            "fewer readable answers than consensus.quorum asks for"
        )
        stage = StageKey(iteration, "train", arm, "sampled")
        if questions > labels + ties:
            lines.append(describe_unread_answers(_unread(store, stage), task))
    if starved:
        most = max(plan.dataset.examples for plan in plans)
        even = "An even number of agents ties often: three tie less than two. " if tied else ""
        raise NothingTrainable(
            f"none of the {len(plans)} models of iteration {iteration} can be trained: the largest "
            f"dataset has {most} example(s), and {min(least)} are needed\n"
            + "\n".join(lines)
            + f"\n{even}Agents that never agree need more rounds or a stronger model, data that is "
            f"too small more train.questions; {_WHAT_NOW}"
        )


def _unread(store: Store, stage: StageKey) -> list[Turn]:
    # A sample is enough to name the causes; a stage may have millions of turns.
    turns = store.turns(stage)
    unread = (turn for turn in turns if turn.kind == "answer" and turn.answer is None)
    return [turn for turn, _ in zip(unread, range(_EXAMINED_AT_MOST), strict=False)]
