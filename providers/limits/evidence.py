"""Whether a call that keeps failing is at fault itself, or the server is."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

# A server that goes down fails every question at once; two in a row may be bad questions.
_FEW = 2


@dataclass(frozen=True, slots=True)
class CallContext:
    """What calls are compared by: those to one `model` about one `subject` may fail for one reason.

    `again`: it failed in an earlier start of the run and is tried once more.
    """

    model: str = ""
    subject: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """How many calls to a model had been answered, and how many subjects had failed, at a time."""

    answers: int
    failures: int


class Evidence:
    """How the calls of one limiter have ended.

    A call is at fault if it failed before, or if its model answers others: the model has answered
    and at most two subjects have failed since; or while the call was failing, at least as many
    calls were answered as subjects failed. Otherwise most calls fail, and the server is at fault.
    """

    def __init__(self) -> None:
        self._answers: Counter[str] = Counter()
        self._failed: defaultdict[str, set[str]] = defaultdict(set)
        self._known: set[str] = set()
        self._since_answer: defaultdict[str, set[str]] = defaultdict(set)

    def record_answer(self, context: CallContext) -> None:
        """A call got its answer."""
        self._answers[context.model] += 1
        self._since_answer[context.model].clear()

    def has_answered(self, model: str) -> bool:
        """Whether a call to `model` was ever answered."""
        return self._answers[model] > 0

    def mark(self, context: CallContext) -> Mark:
        """The counts when a call fails for the first time."""
        return Mark(self._answers[context.model], len(self._failed[context.model]))

    def blames_call(self, context: CallContext, mark: Mark) -> bool:
        """Whether a call that was given up is at fault itself, so that others continue."""
        # Called once per call that is given up: it records the failure as it judges it.
        failed, known = self._failed[context.model], self._known
        if context.again or context.subject in known:
            known.add(context.subject)
            return True
        answers = self._answers[context.model]
        silent = self._since_answer[context.model]
        silent.add(context.subject)
        few = answers > 0 and len(silent) <= _FEW
        if few or answers - mark.answers >= len(failed) - mark.failures + 1:
            failed.add(context.subject)
            known.add(context.subject)
            return True
        return False
