r"""Questions that training and evaluation have in common, word for word or nearly so.

Exact: equal after normalisation, which leaves out case, spacing (also LaTeX's ``\,``, ``\quad``,
``$``, ``\left``), the punctuation between words and the form of characters (Unicode NFKC).

Near: the same numbers, and nearly the same words in whatever order. "The same numbers" means the
same multiset of tokens that contain a digit, such as "12", "1/2" or "3+4*5+6-7*8"; number words
count as numbers too. So a template filled with other numbers is another question, as two different
sums are, while shuffled choices and changed wording are found. What changes a number, or spells it
differently, is not found.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evals.tasks.base import TaskQuestion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What LaTeX and Unicode have for a space, and delimiters of mathematics.
_SPACING = re.compile(
    r"\\(?:[,;:! ]|quad\b|qquad\b|left\b|right\b|displaystyle\b)|\\[\[\]()]"
    r"|[$~\s\u200b\u200c\u200d\ufeff]"
)
# The comma of "1,234".
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Points, commas and colons between words; within numbers they stay.
_PUNCTUATION = re.compile(r"(?<!\d)[.,:]|[.,:](?!\d)|[;?\"\u201c\u201d\u00ab\u00bb]")
_AROUND_OPERATOR = re.compile(r" ?([-+*/^=<>]) ?")
# Spaces count only between two numbers: "1 2" is not "12".
_BETWEEN_WORDS = re.compile(r"(?<!\d) | (?!\d)")
_SAME = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "—": "-",
        "‐": "-",
        "‑": "-",
        "×": "*",
        "·": "*",
        "÷": "/",
        "’": "'",
        "‘": "'",
    }
)
# A token with a digit, with the operators that join it: "3+4*5" is one token.
_NUMBER = re.compile(r"[-+*/^=<>.,:%]*\d[-+*/^=<>.,:%\d]*")
# "one" is left out: it is a pronoun more often than a number.
_NUMBER_WORD = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teen|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million|billion|"
    r"half|third|quarter|twice|thrice|double|triple|dozen)s?\b"
)

# Classes of characters whose counts bound the distance from below.
_BUCKETS = 32
_ROUNDING = 1e-6
# Questions compared at a time: bounds the memory of the arrays.
_CANDIDATES = 1 << 16


@dataclass(frozen=True, slots=True)
class QuestionOverlap:
    """A training and an evaluation question that are one. `similarity` is in 0..1, exact: 1."""

    train: TaskQuestion
    evaluation: TaskQuestion
    similarity: float
    exact: bool


def normalize_question(text: str) -> str:
    """The text without what makes no difference to a question; see the module."""
    # Twice, as NFKC turns further characters into those that the table replaces.
    text = unicodedata.normalize("NFKC", text.translate(_SAME)).translate(_SAME).casefold()
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _PUNCTUATION.sub(" ", _GROUPED.sub("", _SPACING.sub(" ", text)))
    return _AROUND_OPERATOR.sub(r"\1", " ".join(text.split()))


def sort_words(text: str) -> str:
    """The normalised words in alphabetical order."""
    return " ".join(sorted(normalize_question(text).split()))


def find_overlaps(
    training: Sequence[TaskQuestion], evaluation: Sequence[TaskQuestion], threshold: float = 0.95
) -> list[QuestionOverlap]:
    """Every pair of a training and an evaluation question that are the same or nearly so.

    Near pairs have a similarity (1 - indel distance / sum of lengths, of the words in alphabetical
    order) of at least `threshold`. Most similar first, exact ones before others; a pair of
    questions is reported once, also where both are in both lists. Memory grows with the number of
    questions and of pairs found. Raises ValueError for a threshold outside 0 < threshold <= 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold = {threshold} is outside 0 < threshold <= 1; use e.g. 0.9")
    left = [_PreparedQuestion.of(question) for question in training]
    right = [_PreparedQuestion.of(question) for question in evaluation]
    found: dict[frozenset[str], QuestionOverlap] = {}
    for one, other in _find_exact_pairs(left, right):
        _keep_first(found, QuestionOverlap(one.question, other.question, 1.0, exact=True))
    for one, other, similarity in _find_near_pairs(left, right, threshold):
        _keep_first(found, QuestionOverlap(one.question, other.question, similarity, exact=False))
    return sorted(
        found.values(),
        key=lambda o: (-o.similarity, not o.exact, o.train.question_id, o.evaluation.question_id),
    )


@dataclass(frozen=True, slots=True)
class _PreparedQuestion:
    question: TaskQuestion
    key: str
    words: str
    numbers: tuple[str, ...]

    @classmethod
    def of(cls, question: TaskQuestion) -> _PreparedQuestion:
        text = normalize_question(question.text)
        numbers = (*_NUMBER.findall(text), *_NUMBER_WORD.findall(text))
        return cls(
            question,
            key=_BETWEEN_WORDS.sub("", text),
            words=" ".join(sorted(text.split())),
            numbers=tuple(sorted(number.strip(".,:=") for number in numbers)),
        )


def _keep_first(found: dict[frozenset[str], QuestionOverlap], overlap: QuestionOverlap) -> None:
    # A set without order: a question that is in both lists would give each pair twice.
    pair = frozenset((overlap.train.question_id, overlap.evaluation.question_id))
    found.setdefault(pair, overlap)


def _find_exact_pairs(
    left: Sequence[_PreparedQuestion], right: Sequence[_PreparedQuestion]
) -> Iterator[tuple[_PreparedQuestion, _PreparedQuestion]]:
    by_key: dict[str, list[_PreparedQuestion]] = defaultdict(list)
    for one in left:
        by_key[one.key].append(one)
    for other in right:
        for one in by_key.get(other.key, ()):
            yield one, other


def _find_near_pairs(
    left: Sequence[_PreparedQuestion], right: Sequence[_PreparedQuestion], threshold: float
) -> Iterator[tuple[_PreparedQuestion, _PreparedQuestion, float]]:
    blocks: dict[tuple[str, ...], _Block] = defaultdict(_Block)
    for one in left:
        blocks[one.numbers].left.append(one)
    for other in right:
        # Not a new block: one without training questions has no pairs.
        if (block := blocks.get(other.numbers)) is not None:
            block.right.append(other)
    for block in blocks.values():
        yield from block.pairs(threshold)


@dataclass(slots=True)
class _Block:
    """Questions with the same numbers, to be compared all with all."""

    left: list[_PreparedQuestion] = field(default_factory=list)
    right: list[_PreparedQuestion] = field(default_factory=list)

    def pairs(
        self, threshold: float
    ) -> Iterator[tuple[_PreparedQuestion, _PreparedQuestion, float]]:
        if not self.left or not self.right:
            return
        # The longer list is the array that is compared at once, so the loop runs over the shorter
        # one.
        longer, shorter = self.left, self.right
        if swapped := len(longer) < len(shorter):
            longer, shorter = shorter, longer
        targets = _Targets.of(longer)
        for one in shorter:
            for other, similarity in targets.near(one, threshold):
                yield (one, other, similarity) if swapped else (other, one, similarity)


@dataclass(frozen=True, slots=True)
class _Targets:
    """Questions by length, with how often each of 32 classes of characters occurs in each.

    An insertion or deletion changes one count by one, so the sum of the differences of the counts
    is a lower bound of the distance: what it rules out need not be compared.
    """

    questions: list[_PreparedQuestion]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int32]

    @classmethod
    def of(cls, questions: Sequence[_PreparedQuestion]) -> _Targets:
        import numpy as np

        # By length, so that the candidates for a question are one stretch of the arrays.
        ordered = sorted(questions, key=lambda q: (len(q.words), q.question.question_id))
        return cls(
            ordered,
            np.array([len(q.words) for q in ordered], dtype=np.int64),
            np.stack([_count_characters(q.words) for q in ordered]),
        )

    def near(
        self, one: _PreparedQuestion, threshold: float
    ) -> Iterator[tuple[_PreparedQuestion, float]]:
        import numpy as np
        from rapidfuzz.distance import Indel
        from rapidfuzz.process import cdist

        length, counts = len(one.words), _count_characters(one.words)
        # Texts whose lengths differ by more than this cannot be as similar as the threshold.
        first = int(np.searchsorted(self.lengths, length * threshold / (2 - threshold) - 1))
        last = int(np.searchsorted(self.lengths, length * (2 - threshold) / threshold + 1))
        for start in range(first, last, _CANDIDATES):
            window = slice(start, min(start + _CANDIDATES, last))
            distance = np.abs(self.counts[window] - counts).sum(axis=1)
            possible = distance <= (1 - threshold) * (self.lengths[window] + length) + _ROUNDING
            chosen = [self.questions[start + int(n)] for n in np.flatnonzero(possible)]
            if not chosen:
                continue
            similarities = cdist(
                [one.words],
                [other.words for other in chosen],
                scorer=Indel.normalized_similarity,
                score_cutoff=threshold - _ROUNDING,
                dtype=np.float64,
            )[0]
            for n in np.flatnonzero(similarities >= threshold - _ROUNDING):
                yield chosen[int(n)], float(similarities[n])


def _count_characters(words: str) -> NDArray[np.int32]:
    import numpy as np

    # UTF-32 gives every character four bytes, so that the array needs no loop in Python.
    codes = np.frombuffer(words.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return np.bincount(codes % _BUCKETS, minlength=_BUCKETS).astype(np.int32)
