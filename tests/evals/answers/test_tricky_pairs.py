import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.answers.mathematical import Mathematical
from evals.equivalence import Judge

DOCUMENT = Path(__file__).parents[3] / "docs" / "answers.md"
ROW = re.compile(r"\| `(.+?)` \| `(.+?)` \| (same|different) \| .+ \|")
PAIRS = [
    (row[1].replace(r"\|", "|"), row[2].replace(r"\|", "|"), row[3] == "same")
    for row in map(ROW.fullmatch, DOCUMENT.read_text(encoding="utf-8").splitlines())
    if row
]


@pytest.fixture(scope="module")
def kind() -> Iterator[Mathematical]:
    judge = Judge(cpu_seconds=1.5)
    kind = Mathematical(ask=judge)
    kind.prepare((a, b) for a, b, _ in PAIRS)
    yield kind
    judge.close()


def test_the_table_is_large_and_balanced() -> None:
    assert len(PAIRS) >= 240
    assert sum(not same for _, _, same in PAIRS) >= 90
    assert len({(a, b) for a, b, _ in PAIRS}) == len(PAIRS)


@pytest.mark.parametrize(("a", "b", "same"), PAIRS)
def test_a_documented_pair(kind: Mathematical, a: str, b: str, same: bool) -> None:
    assert kind.same(a, b) is same
    assert kind.same(b, a) is same


@pytest.mark.parametrize("text", sorted({text for a, b, _ in PAIRS for text in (a, b)}))
def test_a_documented_answer_is_read_from_its_box(kind: Mathematical, text: str) -> None:
    if text.count("{") != text.count("}") or text.startswith("}") or "boxed" in text:
        pytest.skip("does not close")
    answer = kind.read(rf"so it is $\boxed{{{text}}}$.")
    assert answer is not None
    assert kind.same(answer, text)
