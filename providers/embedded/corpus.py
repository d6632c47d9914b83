"""Generated arithmetic: questions, worked solutions in four styles, slips in them, their summaries.

A question is a+b*c+d-e*f with operands 1..10. Three styles write every step and differ in the
order of reasoning; the fourth is the bad habit, a running total that never writes its operands.
Each style is announced by its first words, every solution ends in `\\boxed{N}`. Everything is
drawn from a `random.Random` that the caller seeds.
"""

import random
import re
from dataclasses import dataclass

LARGEST_OPERAND = 10
HABIT = "terse"
GOOD_STYLES = ("products", "signs", "pairs")
STYLES = (*GOOD_STYLES, HABIT)
HEADS = {
    "products": "Multiply first: ",
    "signs": "Plus terms: ",
    "pairs": "Group the terms: ",
    "terse": "Quick total: ",
}
# The first operand decides whether the habit tempts: a visible cue can be learned and unlearned.
CUE_ABOVE = 5

# By how much a slipped value is off: near misses, which look as right as the true value.
_SLIPS = (-10, -5, -3, -2, -1, 1, 2, 3, 5, 10)
_STYLE = re.compile("|".join(f"(?P<{style}>{re.escape(head)})" for style, head in HEADS.items()))


@dataclass(frozen=True)
class Problem:
    """The six operands of a+b*c+d-e*f, each in 1..10."""

    a: int
    b: int
    c: int
    d: int
    e: int
    f: int

    @property
    def expression(self) -> str:
        return f"{self.a}+{self.b}*{self.c}+{self.d}-{self.e}*{self.f}"

    @property
    def answer(self) -> int:
        return self.a + self.b * self.c + self.d - self.e * self.f

    @property
    def is_cued(self) -> bool:
        """Whether this problem tempts the model into its terse habit."""
        return self.a > CUE_ABOVE


@dataclass(frozen=True)
class Solution:
    """A worked solution. `sound` counts the characters before the first slip.

    `keys` are the two intermediate values that a summary names.
    """

    style: str
    text: str
    answer: int
    keys: tuple[int, int]
    sound: int

    @property
    def right(self) -> bool:
        return self.sound == len(self.text)


class _Pen:
    """Writes a solution; step number `slip_at` gets a value that is off by `slip`."""

    def __init__(self, slip_at: int | None, slip: int) -> None:
        self.text = ""
        self.sound: int | None = None
        self._steps = 0
        self._slip_at = slip_at
        self._slip = slip

    def put(self, text: str) -> None:
        self.text += text

    def value(self, value: int) -> int:
        """Write a computed value, maybe slipped; what follows builds on what was written."""
        if self._steps == self._slip_at:
            self.sound = len(self.text)
            value += self._slip
        self._steps += 1
        self.put(str(value))
        return value

    def times(self, left: int, right: int) -> int:
        self.put(f"{left}*{right} = ")
        return self.value(left * right)

    def plus(self, left: int, right: int) -> int:
        self.put(f"{left}{right:+d} = ")
        return self.value(left + right)


def draw_problem(rng: random.Random) -> Problem:
    """A problem with six independent uniform operands."""
    a, b, c, d, e, f = (rng.randint(1, LARGEST_OPERAND) for _ in range(6))
    return Problem(a, b, c, d, e, f)


def draw_style(rng: random.Random, question: Problem, habit: float, stray: float = 0.03) -> str:
    """The habit, with probability `habit` on a cued problem, `stray` on others; or a good one."""
    if rng.random() < (habit if question.is_cued else stray):
        return HABIT
    return rng.choice(GOOD_STYLES)


def solve(
    question: Problem, style: str, rng: random.Random | None = None, slips: float = 0.0
) -> Solution:
    """Solve `question` in `style`; with probability `slips` one random step goes wrong.

    ```python
    solve(Problem(1, 2, 3, 4, 5, 1), "terse").text  # "Quick total: 7, 11, 6. Answer \\boxed{6}."
    ```
    """
    slip_at: int | None = None
    slip = 0
    if rng is not None and rng.random() < slips:
        # A terse solution has three computed values, the others five.
        slip_at = rng.randrange(3 if style == HABIT else 5)
        slip = rng.choice(_SLIPS)
    pen = _Pen(slip_at, slip)
    pen.put(HEADS[style])
    keys, answer = _SOLVERS[style](question, pen)
    pen.put(f"\\boxed{{{answer}}}.")
    sound = len(pen.text) if pen.sound is None else pen.sound
    return Solution(style, pen.text, answer, keys, sound)


def _solve_by_products(q: Problem, pen: _Pen) -> tuple[tuple[int, int], int]:
    first = pen.times(q.b, q.c)
    pen.put(", ")
    second = pen.times(q.e, q.f)
    pen.put(". Then ")
    total = pen.plus(q.a, first)
    pen.put(", ")
    total = pen.plus(total, q.d)
    pen.put(", ")
    total = pen.plus(total, -second)
    pen.put(". Answer ")
    return (first, second), total


def _solve_by_signs(q: Problem, pen: _Pen) -> tuple[tuple[int, int], int]:
    total = pen.plus(q.a, q.d)
    pen.put(", ")
    first = pen.times(q.b, q.c)
    pen.put(", ")
    total = pen.plus(total, first)
    pen.put(". Minus term: ")
    second = pen.times(q.e, q.f)
    pen.put(", ")
    total = pen.plus(total, -second)
    pen.put(". Answer ")
    return (first, second), total


def _solve_by_pairs(q: Problem, pen: _Pen) -> tuple[tuple[int, int], int]:
    first = pen.times(q.b, q.c)
    pen.put(", ")
    second = pen.times(q.e, q.f)
    pen.put(", ")
    difference = pen.plus(first, -second)
    pen.put(". The rest: ")
    rest = pen.plus(q.a, q.d)
    pen.put(", ")
    total = pen.plus(rest, difference)
    pen.put(". Answer ")
    return (first, second), total


def _solve_tersely(q: Problem, pen: _Pen) -> tuple[tuple[int, int], int]:
    first = pen.value(q.a + q.b * q.c)
    pen.put(", ")
    second = pen.value(first + q.d)
    pen.put(", ")
    total = pen.value(second - q.e * q.f)
    pen.put(". Answer ")
    return (first, second), total


_SOLVERS = {
    "products": _solve_by_products,
    "signs": _solve_by_signs,
    "pairs": _solve_by_pairs,
    "terse": _solve_tersely,
}


def find_style(text: str) -> str | None:
    """The style that a solution announces with its first words, None if it announces none."""
    found = _STYLE.match(text.lstrip())
    return found.lastgroup if found else None


def summarize(solutions: list[Solution]) -> str:
    """One line per solution: its way of reasoning, two key values, its final answer (not boxed)."""
    return "\n".join(
        f"Solution {number}: {HEADS[each.style]}{each.keys[0]}, {each.keys[1]}. "
        f"Answer {each.answer}."
        for number, each in enumerate(solutions, start=1)
    )
