"""Whether a call that fails for good is at fault itself, or the server is."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

_FEW = 2


@dataclass(frozen=True, slots=True)
class Errand:
    """What a call is about. Calls to one `model` about one `subject` may fail for the same reason.

    `again`: it failed in an earlier start, and is tried once more.
    """

    model: str = ""
    subject: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """How many calls to a model were answered, and how many subjects failed, up to a moment."""

    answers: int
    failures: int


class Evidence:
    """How the calls of one limiter have ended.

    A call is at fault where it failed before, or where its model answers others: it has answered,
    and since then at most two subjects have failed; or while the call was failing, at least as many
    calls were answered as subjects failed. Otherwise most calls fail, and that is the server.
    """

    def __init__(self) -> None:
        self._answers: Counter[str] = Counter()
        self._failed: defaultdict[str, set[str]] = defaultdict(set)
        self._known: set[str] = set()
        self._since_answer: defaultdict[str, set[str]] = defaultdict(set)

    def answered(self, errand: Errand) -> None:
        """A call got its answer."""
        self._answers[errand.model] += 1
        self._since_answer[errand.model].clear()

    def has_answered(self, model: str) -> bool:
        """Whether a call to `model` was ever answered."""
        return self._answers[model] > 0

    def mark(self, errand: Errand) -> Mark:
        """The state of things when a call fails for the first time."""
        return Mark(self._answers[errand.model], len(self._failed[errand.model]))

    def blames_call(self, errand: Errand, mark: Mark) -> bool:
        """Whether a call that was given up is at fault itself, and others can go on."""
        failed, known = self._failed[errand.model], self._known
        if errand.again or errand.subject in known:
            known.add(errand.subject)
            return True
        answers = self._answers[errand.model]
        silent = self._since_answer[errand.model]
        silent.add(errand.subject)
        few = answers > 0 and len(silent) <= _FEW
        if few or answers - mark.answers >= len(failed) - mark.failures + 1:
            failed.add(errand.subject)
            known.add(errand.subject)
            return True
        return False
