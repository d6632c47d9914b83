import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evals.answers.math.comparison import same
from evals.answers.math.kind import MathKind
from evals.answers.math.shapes import Equation, Rounded, Shape
from evals.answers.math.structure import read_structure
from evals.judge.pool import Judge

DOCUMENT = Path(__file__).parents[3] / "docs" / "answers.md"
ROW = re.compile(r"\| `(.+?)` \| `(.+?)` \| (same|different) \| .+ \|")
PAIRS = [
    (row[1].replace(r"\|", "|"), row[2].replace(r"\|", "|"), row[3] == "same")
    for row in map(ROW.fullmatch, DOCUMENT.read_text(encoding="utf-8").splitlines())
    if row
]


@pytest.fixture(scope="module")
def kind() -> Iterator[MathKind]:
    judge = Judge(cpu_seconds=1.5)
    kind = MathKind(ask=judge)
    # In parallel, so that the pairs without an end do not run one after the other.
    with ThreadPoolExecutor(judge.workers) as threads:
        list(threads.map(lambda pair: kind.same(*pair[:2]), PAIRS))
    yield kind
    judge.close()


def test_the_table_is_large_and_balanced() -> None:
    assert len(PAIRS) >= 440
    assert sum(not verdict for _, _, verdict in PAIRS) >= 130
    assert len({(a, b) for a, b, _ in PAIRS}) == len(PAIRS)


# Fifty at a time, since a test of its own costs more than most comparisons.
@pytest.mark.parametrize("first", range(0, len(PAIRS), 50))
def test_documented_pairs(kind: MathKind, first: int) -> None:
    for a, b, verdict in PAIRS[first : first + 50]:
        assert kind.same(a, b) is verdict, (a, b)
        assert kind.same(b, a) is verdict, (b, a)


def test_sameness_is_transitive_but_for_the_documented_cases() -> None:
    texts = sorted({text for a, b, _ in PAIRS for text in (a, b)})
    structures = [read_structure(text) for text in texts]
    partners = [
        {n for n, other in enumerate(structures) if same(one, other, lambda a, b: False)}
        for one in structures
    ]
    broken = {
        (texts[one], texts[other])
        for one, partner in enumerate(partners)
        for other in partner
        if partners[other] != partner
    }
    assert all(n in partner for n, partner in enumerate(partners))
    # An exact value with its approximation is the same as either.
    rounded = [n for n, text in enumerate(texts) if isinstance(value_of(structures[n]), Rounded)]
    around = {texts[other] for n in rounded for other in partners[n]}
    assert len(rounded) >= 8
    assert {text for pair in broken for text in pair} - around <= {
        *("y = 2x+3", "y = 2x + 3", "f(x) = 2x+3", "2x+3", "2x - y + 3 = 0")
    }


def value_of(shape: Shape) -> Shape:
    return shape.right if isinstance(shape, Equation) else shape


def closes(text: str) -> bool:
    """Whether a box around the text ends where it should."""
    balanced = text.count("{") == text.count("}") and not text.startswith("}")
    return balanced and "boxed" not in text and text != "{}"


TEXTS = [text for text in sorted({text for a, b, _ in PAIRS for text in (a, b)}) if closes(text)]


@pytest.mark.parametrize("first", range(0, len(TEXTS), 50))
def test_documented_answers_are_read_from_their_box(kind: MathKind, first: int) -> None:
    assert len(TEXTS) > 500
    for text in TEXTS[first : first + 50]:
        answer = kind.read(rf"so it is $\boxed{{{text}}}$.")
        assert answer is not None, text
        assert kind.same(answer, text), text
