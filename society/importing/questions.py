"""The questions of a transcript file, their ids and their gold answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evals.tasks.base import Split, Task, TaskQuestion
from evals.tasks.dataset import make_text_id
from society.importing.debates import ImportedTurn
from society.runs.question_file import ReadGold
from store.records import Question


@dataclass(frozen=True, slots=True)
class KnownQuestion:
    """A question of the experiment's own task, and its position in the split."""

    question: TaskQuestion
    split: Split
    position: int


@dataclass(slots=True)
class _FoundQuestion:
    where: str
    text: str
    split: Split
    gold: str | None = None
    raw: str | None = None
    meta: str | None = None


@dataclass(slots=True)
class ImportedQuestions:
    """The questions of a file, collected response by response.

    `known` are the questions of the experiment's own task, by their text; they keep their ids.
    `prefix` is put before every id that the file gives.
    """

    task: Task
    read_gold: ReadGold
    known: Mapping[str, KnownQuestion]
    problems: list[str]
    prefix: str = ""
    found: dict[str, _FoundQuestion] = field(default_factory=dict)
    _given: dict[str, set[str]] = field(default_factory=dict)
    _splits: dict[str, tuple[Split, str]] = field(default_factory=dict)

    def collect(self, turns: Sequence[ImportedTurn]) -> list[str]:
        """The question id of every response. Contradictions go to `problems`."""
        for each in turns:
            if each.question_id is not None:
                self._given.setdefault(each.question.strip(), set()).add(each.question_id)
        return [self._ask(each) for each in turns]

    def find_question(self, question_id: str) -> TaskQuestion:
        """A question with its gold answer."""
        found = self.found[question_id]
        # The experiment's own gold answer comes first: it is what its runs are judged by.
        if (known := self.known.get(found.text)) is not None:
            return known.question
        return TaskQuestion(question_id, found.text, found.gold)

    def record(self, question_id: str, position: int) -> Question:
        """The row of a question; `position` is used if the experiment gives it none."""
        found, question = self.found[question_id], self.find_question(question_id)
        known = self.known.get(found.text)
        return Question(
            question_id=question_id,
            task=self.task.name,
            split=found.split,
            question=question.text,
            gold=question.gold,
            position=position if known is None else known.position,
            meta=json.dumps(dict(question.meta)) if question.meta else found.meta,
        )

    def _ask(self, turn: ImportedTurn) -> str:
        text = turn.question.strip()
        question_id = self._choose_id(turn, text)
        found = self.found.get(question_id)
        if found is None:
            found = _FoundQuestion(turn.where, text, turn.stage.question_split)
            self.found[question_id] = found
            self._check_split(turn, text)
        elif found.text != text:
            self.problems.append(
                f"{turn.where}: question_id {question_id!r} has another text in {found.where}; "
                "give each question its own id"
            )
        elif found.split != turn.stage.split:
            self._two_splits(turn, found.where)
        if found.meta is None:
            found.meta = turn.meta
        self._compare_gold(turn, found, question_id)
        return question_id

    def _choose_id(self, turn: ImportedTurn, text: str) -> str:
        if (known := self.known.get(text)) is not None:
            return known.question.question_id
        given = {turn.question_id} if turn.question_id else self._given.get(text, set())
        if len(given) > 1:
            self.problems.append(
                f"{turn.where}: has no question_id, and other lines give its question "
                f"{len(given)} different ids; add the right one"
            )
        # An id made from the text is the same in every import of that question.
        return f"{self.prefix}{min(given)}" if given else make_text_id(self.task.name, text)

    def _check_split(self, turn: ImportedTurn, text: str) -> None:
        # The same text under two ids would still leak from training into evaluation.
        split, where = self._splits.setdefault(text, (turn.stage.question_split, turn.where))
        known = self.known.get(text)
        if split != turn.stage.split:
            self._two_splits(turn, where)
        elif known is not None and known.split != split:
            self.problems.append(
                f"{turn.where}: the experiment has this question in split {known.split}, "
                f"the transcript has it in {split}; import it with --split {known.split}"
            )

    def _two_splits(self, turn: ImportedTurn, where: str) -> None:
        self.problems.append(
            f"{turn.where}: this question is in split {turn.stage.split} here and in the other "
            f"split in {where}; training and evaluation questions must differ, so remove one"
        )

    def _compare_gold(self, turn: ImportedTurn, found: _FoundQuestion, question_id: str) -> None:
        raw = turn.gold
        if raw is None or raw == found.raw:
            return
        try:
            gold = self.read_gold(raw)
        except ValueError as error:
            self.problems.append(f"{turn.where}: gold {raw[:60]!r}: {error}")
            return
        before = self.find_question(question_id).gold if found.gold is None else found.gold
        # 1/2 and 0.5 are one gold answer; only answers with another meaning contradict.
        if before is not None and not self.task.equivalent(gold, before):
            other = "the experiment's task" if found.gold is None else found.where
            self.problems.append(
                f"{turn.where}: gold {gold[:40]!r} for a question whose gold is {before[:40]!r} "
                f"in {other}; keep the right one"
            )
        elif found.gold is None:
            found.gold, found.raw = gold, raw
