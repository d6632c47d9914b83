"""A task over rows of data: which questions there are, in which order, and how they are named.

Rows are read once, when a split is first asked for, and every one of them is checked then: a gold
answer that cannot be read is an error that names its line, before the run starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from evals.answers.base import AnswerKind
from evals.tasks import question_text
from evals.tasks.base import Split, TaskQuestion
from evals.tasks.placeholders import allow_placeholders, make_placeholders
from evals.tasks.sources import DataRow, NotCached, RowSource

_HASH = 12
_FULL = 2.0**64


@dataclass(frozen=True, slots=True)
class Entry:
    """What a row says. `text` is what is asked.

    `plain` is the text before an option changed how it is put; what names a question and decides
    its share, so that neither depends on the option.
    """

    text: str
    gold: str | None
    plain: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What makes it the same question whatever the options."""
        return self.text if self.plain is None else self.plain


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Keeps the rows whose `of` is one of `wanted`; `option` is the user's name for it."""

    option: str
    wanted: frozenset[str]
    of: Callable[[DataRow], str]


@dataclass(frozen=True, slots=True)
class QuestionOrder:
    """How questions are put in order, shared out and named.

    Without a `seed` they stay in the order of the file. `eval_share` counts for one file with both
    splits. `id_field` holds a row's id; None: a hash of the text names it. Without `id_required`
    the field is used only where every row has it.
    """

    seed: int | None = 0
    eval_share: float = 0.5
    id_field: str | None = None
    id_required: bool = True


class DatasetTask:
    """Implements `Task` over a source of rows and a kind of answer.

    `read` turns a row into an entry and raises ValueError for one that cannot be used. The order
    is that of a hash of seed and id, so it does not depend on the order of the file. Where one
    file serves both splits, a question's share follows from a hash of its words alone. A text that
    occurs again without an id is left out; an id that occurs again is an error. `answer_form`
    takes the place of the kind's own. `gold_field` names a field that training data of
    their own may lack altogether.
    """

    def __init__(
        self,
        name: str,
        source: RowSource,
        kind: AnswerKind,
        read: Callable[[DataRow], Entry],
        *,
        prompt: str,
        answer_form: str | None = None,
        order: QuestionOrder | None = None,
        filters: Sequence[RowFilter] = (),
        gold_field: str | None = None,
    ) -> None:
        self.name = name
        self.answer_form = answer_form or kind.form
        self._source = source
        self._kind = kind
        self._read = read
        self._prompt = prompt
        self._order = order or QuestionOrder()
        self._filters = filters
        self._gold_field = gold_field
        self._splits: dict[Split, list[TaskQuestion]] = {}
        self._identities: dict[Split, dict[str, str]] = {}
        # Rows that the source and the filters have left, and how many questions they are.
        self._counts: dict[Split, tuple[int, int]] = {}

    def questions(self, split: Split, start: int, count: int) -> Sequence[TaskQuestion]:
        """`count` questions of a split from `start` on; see `Task.questions`."""
        if start < 0 or count < 0:
            raise ValueError(f"start = {start} and count = {count} must not be negative")
        try:
            available = self.size(split)
        except NotCached:
            if not allow_placeholders(self.name):
                raise
            return make_placeholders(self.name, split, start, count)
        if start + count > available:
            remedy = "ask for fewer"
            if self._source.shared:
                remedy += ", change task.eval_share"
            raise ValueError(
                f"the task {self.name} has {available} {split} questions "
                f"{self._source.describe(split)}{self._describe_copies(split)}, "
                f"{start + count} are asked for; {remedy} or give it more data"
            )
        return self._splits[split][start : start + count]

    def _describe_copies(self, split: Split) -> str:
        rows, questions = self._counts[split]
        if rows == questions:
            return ""
        copies = rows - questions
        return f" ({copies} of its {rows} rows repeat another's text and are left out)"

    def size(self, split: Split) -> int:
        """How many questions a split has."""
        if split not in self._splits:
            self._load(split)
        return len(self._splits[split])

    def prompt(self, text: str) -> str:
        """The opening user message."""
        return question_text.fill_template(
            self._prompt, {"question": text.strip(), "answer_form": self.answer_form}
        )

    def extract(self, response: str) -> str | None:
        """The answer that a response states last; see `AnswerKind.read`."""
        return self._kind.read(response)

    def equivalent(self, a: str, b: str) -> bool:
        """See `AnswerKind.same`."""
        return self._kind.same(a, b)

    def read_gold(self, text: str) -> str:
        """See `AnswerKind.read_gold`."""
        return self._kind.read_gold(text)

    def style(self, response: str) -> str | None:
        """None: a dataset defines no ways of reasoning."""
        return None

    def _load(self, split: Split) -> None:
        rows = self._source.rows(split)
        if split == "train" and not self._source.shared:
            rows = self._add_gold_field(rows)
        kept = self._filter_rows(rows)
        named = self._name_questions(kept, self._id_field(rows))
        self._counts[split] = len(kept), len(named)
        if self._source.shared:
            # The rows hold both splits, so one reading fills both: no row is read or named twice.
            for each in ("train", "eval"):
                self._counts[each] = self._counts[split]
                self._store_split(
                    each, {k: e for k, e in named.items() if self._choose_split(e) == each}
                )
        else:
            self._store_split(split, named)

    def _add_gold_field(self, rows: Sequence[DataRow]) -> Sequence[DataRow]:
        """Training rows, with an empty gold field where none of them has any."""
        name = self._gold_field
        if name is None or any(name in row.fields for row in rows):
            return rows
        return [replace(row, fields={**row.fields, name: None}) for row in rows]

    def _store_split(self, split: Split, named: Mapping[str, Entry]) -> None:
        identities = {question_id: entry.identity for question_id, entry in named.items()}
        self._refuse_one_id_for_two(identities, split)
        self._identities[split] = identities
        ordered = list(named)
        if (seed := self._order.seed) is not None:
            ordered.sort(key=lambda key: _hash_text(f"{seed} {key}"))
        self._splits[split] = [
            TaskQuestion(key, named[key].text, named[key].gold, named[key].meta) for key in ordered
        ]

    def _name_questions(self, rows: Sequence[DataRow], id_field: str | None) -> dict[str, Entry]:
        named: dict[str, Entry] = {}
        first: dict[str, str] = {}
        for row in rows:
            entry = self._read(row)
            if id_field is None:
                question_id = make_text_id(self.name, entry.identity)
            else:
                question_id = f"{self.name}:{row.text(id_field)}"
            if question_id not in named:
                named[question_id], first[question_id] = entry, row.place
            # An equal text without an id is a copy and left out. Two texts under one hash are
            # refused like an id that occurs twice.
            elif id_field is not None or named[question_id].identity != entry.identity:
                raise row.make_error(
                    f"the id {question_id!r} was used before, in {first[question_id]}; "
                    "give every question an id of its own"
                )
        return named

    def _id_field(self, rows: Sequence[DataRow]) -> str | None:
        name = self._order.id_field
        if name is None or self._order.id_required:
            return name
        # By id in all rows or in none: a file that names some questions by id and others by text
        # would name the same question twice.
        return name if all(row.fields.get(name) not in (None, "") for row in rows) else None

    def _filter_rows(self, rows: Sequence[DataRow]) -> Sequence[DataRow]:
        for each in self._filters:
            there = {each.of(row) for row in rows}
            if missing := sorted(each.wanted - there):
                raise ValueError(
                    f"{each.option}: no question of {_list_files(rows)} has {missing[0]!r}; "
                    f"it has {', '.join(sorted(there)) or 'none'}"
                )
        kept = [row for row in rows if all(f.of(row) in f.wanted for f in self._filters)]
        if not kept:
            options = " and ".join(f.option for f in self._filters)
            raise ValueError(
                f"{_list_files(rows)}: none of {len(rows)} questions is left by {options}; "
                "widen them"
            )
        return kept

    def _choose_split(self, entry: Entry) -> Split:
        # Imported here: only files that hold both splits need it.
        from evals.overlap import sort_words

        place = int(_hash_text(f"share {sort_words(entry.identity)}")[:16], 16) / _FULL
        return "eval" if place < self._order.eval_share else "train"

    def _refuse_one_id_for_two(self, identities: Mapping[str, str], split: Split) -> None:
        for other, known in self._identities.items():
            for question_id, identity in identities.items():
                if known.get(question_id, identity) != identity:
                    raise ValueError(
                        f"the id {question_id!r} names one question in the {other} data and "
                        f"another in the {split} data; make the ids unique over both, or set "
                        "task.id = '' to name questions by their text"
                    )


def make_text_id(task: str, text: str) -> str:
    """The id of a question that has none of its own."""
    return f"{task}:{_hash_text(text)[:_HASH]}"


def _list_files(rows: Iterable[DataRow]) -> str:
    return ", ".join(dict.fromkeys(row.file for row in rows))


def _hash_text(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
