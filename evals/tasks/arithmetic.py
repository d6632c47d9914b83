r"""The paper's arithmetic task: a+b*c+d-e*f over small integers.

Subramaniam et al. 2025 (arXiv 2501.05707), section 4.1; Du et al. 2023 (arXiv 2305.14325). One
question: ``What is the result of 3+4*5+6-7*8?``, gold ``-27``. Questions are generated, not
downloaded.

Swapping a with d, b with c or e with f gives the same sum in another form. Questions are
drawn from the classes of such rearrangements, and each class is asked in one form only. Half of the
classes are training questions and half evaluation questions. The halves do not depend on the seed,
so that no run over the same range ever trains on an evaluation question. The seed decides the
order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isqrt

from pydantic import Field, model_validator

from evals.answers import load_kind
from evals.tasks.base import Split, TaskQuestion
from evals.tasks.options import TaskOptions, validate_options

# Four rounds make a strong pseudorandom permutation (Luby & Rackoff 1988); two more cost little.
# Another number would change the order of the questions of every seed.
_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Shuffle:
    """A permutation of range(`size`), chosen by `key`, computed place by place and never stored.

    A Feistel network over a slightly larger rectangle. A value that falls outside the range is sent
    through again until it falls inside, which keeps the map one-to-one (Black & Rogaway 2002,
    "Ciphers with Arbitrary Finite Domains", cycle walking). The same on every machine.
    """

    size: int
    key: str

    def __getitem__(self, position: int) -> int:
        """What stands at `position`. Raises IndexError outside 0..size-1."""
        if not 0 <= position < self.size:
            raise IndexError(f"position {position} is outside 0..{self.size - 1}")
        side = isqrt(self.size - 1) + 1
        value = self._once(position, side)
        while value >= self.size:
            value = self._once(value, side)
        return value

    def _once(self, value: int, side: int) -> int:
        left, right = divmod(value, side)
        for number in range(_ROUNDS):
            left, right = right, (left + self._noise(number, right)) % side
        return left * side + right

    def _noise(self, number: int, half: int) -> int:
        text = f"{self.key}/{number}/{half}".encode()
        return int.from_bytes(blake2b(text, digest_size=16).digest())


STYLES = {
    "products": re.compile(r"Multiply first: "),
    "signs": re.compile(r"Plus terms: "),
    "pairs": re.compile(r"Group the terms: "),
    "terse": re.compile(r"Quick total: "),
}
"""The built-in model's ways of reasoning, by the words a solution opens with."""

_ANSWERS = load_kind("number", {"fallback": False, "integers": True})
_EXPRESSION = re.compile(r"[-+*/().0-9\s]*[0-9][-+*/().0-9\s]*")
_PLAIN = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/"})


class ArithmeticOptions(TaskOptions):
    """The options of the task arithmetic."""

    low: int = Field(default=1, ge=0)
    """The smallest operand."""

    high: int = Field(default=10, le=10**6)
    """The largest operand."""

    addends: int | None = Field(default=None, le=10**6)
    """The largest of the first and the fourth operand, the two that are added; as `high` if
    unset."""

    seed: int = Field(default=0, ge=0)
    """Decides the order of the questions."""

    @model_validator(mode="after")
    def _in_order(self) -> ArithmeticOptions:
        if self.high < self.low:
            raise ValueError(f"high = {self.high} is below low = {self.low}; make it larger")
        if self.addends is not None and self.addends < self.low:
            raise ValueError(f"addends = {self.addends} is below low = {self.low}; make it larger")
        return self


def create(options: Mapping[str, object]) -> Arithmetic:
    """The task with the user's options. Raises ValueError that names option, value and remedy."""
    return Arithmetic(validate_options(ArithmeticOptions, options, "arithmetic"))


@dataclass(frozen=True)
class Arithmetic:
    """Implements `Task` and `Recognises`."""

    options: ArithmeticOptions = field(default_factory=ArithmeticOptions)
    name: str = "arithmetic"
    answer_form: str = _ANSWERS.form

    def questions(self, split: Split, start: int, count: int) -> Sequence[TaskQuestion]:
        """`count` questions of a split from `start` on; see `Task.questions`."""
        if start < 0 or count < 0:
            raise ValueError(f"start = {start} and count = {count} must not be negative")
        available = self.size(split)
        if start + count > available:
            raise ValueError(
                f"the task arithmetic has {available} {split} questions over "
                f"{self._describe_range()}, {start + count} are asked for; "
                "ask for fewer or raise task.high"
            )
        order = Shuffle(max(available, 1), f"order {split} {self.options.seed}")
        offset = 0 if split == "eval" else self.size("eval")
        return [self._question(offset + order[i]) for i in range(start, start + count)]

    def size(self, split: Split) -> int:
        """How many questions a split has."""
        evaluation = self._classes // 2
        return evaluation if split == "eval" else self._classes - evaluation

    def prompt(self, text: str) -> str:
        """The opening user message; `text` is a question or a bare expression."""
        text = text.strip()
        bare = text.translate(_PLAIN).rstrip("?= \t")
        if _EXPRESSION.fullmatch(bare):
            text = f"What is the result of {''.join(bare.split())}?"
        return rf"{text} Work step by step and put the final answer in \boxed{{}}."

    def extract(self, response: str) -> str | None:
        """The last answer stated, as a number where it is one; see `evals.answers.number`."""
        return _ANSWERS.read(response)

    def equivalent(self, a: str, b: str) -> bool:
        """Equal as numbers where both are numbers, else equal as text."""
        return _ANSWERS.same(a, b)

    def style(self, response: str) -> str | None:
        """One of `STYLES`, or None for a response that announces none."""
        opening = response.lstrip()
        return next((name for name, head in STYLES.items() if head.match(opening)), None)

    def identity(self, question: TaskQuestion) -> str:
        """The sum with the operands of each pair that may be swapped in order."""
        a, b, c, d, e, f = map(int, re.findall(r"\d+", question.text))
        return " ".join(f"{min(p)},{max(p)}" for p in ((a, d), (b, c), (e, f)))

    def _describe_range(self) -> str:
        options = self.options
        wider = "" if options.addends is None else f", a and d to {options.addends}"
        return f"{options.low}..{options.high}{wider}"

    @property
    def _factor_pairs(self) -> int:
        return self._count_pairs(self.options.high)

    @property
    def _classes(self) -> int:
        addends = self.options.addends
        pairs = self._factor_pairs if addends is None else self._count_pairs(addends)
        return pairs * self._factor_pairs**2

    def _count_pairs(self, high: int) -> int:
        operands = high - self.options.low + 1
        return operands * (operands + 1) // 2

    def _question(self, place: int) -> TaskQuestion:
        number = Shuffle(self._classes, "split")[place]
        rest, last = divmod(number, self._factor_pairs)
        first, middle = divmod(rest, self._factor_pairs)
        form = blake2b(f"form {number}".encode(), digest_size=1).digest()[0]
        a, d = self._pair(first, swap=bool(form & 1))
        b, c = self._pair(middle, swap=bool(form & 2))
        e, f = self._pair(last, swap=bool(form & 4))
        expression = f"{a}+{b}*{c}+{d}-{e}*{f}"
        return TaskQuestion(
            question_id=f"{self.name}:{expression}",
            text=f"What is the result of {expression}?",
            gold=str(a + b * c + d - e * f),
        )

    def _pair(self, number: int, *, swap: bool) -> tuple[int, int]:
        # Unordered pairs (0,0), (0,1), (1,1), (0,2), … : pair `number` lies in triangle row `high`.
        high = (isqrt(8 * number + 1) - 1) // 2
        low = number - high * (high + 1) // 2
        pair = (self.options.low + low, self.options.low + high)
        return (pair[1], pair[0]) if swap else pair
