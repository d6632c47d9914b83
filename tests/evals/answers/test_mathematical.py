import json
import os
import re
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.answers.math.comparison import same
from evals.answers.math.kind import MathKind, create
from evals.answers.math.shapes import Words
from evals.answers.math.structure import read_structure
from evals.judge.pool import Judge

DATA = Path(os.environ.get("SOCIETY_DATA", Path(__file__).parents[4] / "shared" / "data"))
EQUAL = Path(__file__).with_name("equal_math_answers.json")
ONLY_JUDGED = ("3 - 2f(x)", "f(2) < f(1) < f(4)")


@pytest.fixture(scope="session")
def kind(quick_judge: Judge) -> MathKind:
    return MathKind(ask=quick_judge)


@cache
def solutions() -> tuple[str, ...]:
    path = DATA / "math_test.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with path.open(encoding="utf-8") as lines:
        return tuple(json.loads(line)["solution"] for line in lines)


@cache
def golds() -> tuple[str, ...]:
    return tuple(map(MathKind().read_gold, solutions()))


def never(a: str, b: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}"),
        (r"It is \boxed{x^2 + 2x} as shown.", "x^2 + 2x"),
        (r"The answer is $\frac{3}{4}$.", r"\frac{3}{4}"),
        (r"The final answer is $(1,2)$. I hope it is correct.", "(1,2)"),
        ("The answer is Friday.", "Friday"),
        (r"\boxed{the set of all the numbers that are not whole}", None),
        ("The answer is clear from what has been said above.", None),
        (r"\boxed{}", None),
        (r"\boxed{4", None),
        ("I see 3 and 4.", None),
        ("", None),
    ],
)
def test_read_takes_the_last_stated_answer(
    kind: MathKind, response: str, answer: str | None
) -> None:
    if answer is None and response.startswith(r"\boxed{the"):
        answer = "the set of all the numbers that are not whole"
    assert kind.read(response) == answer


def test_what_is_read_can_be_stored(kind: MathKind) -> None:
    answer = kind.read("\\boxed{1\x00 \ud800 +\u202e 2\n}")
    assert answer is not None
    assert answer.encode("utf-8")
    assert answer.isprintable()


def test_gold_is_a_solution_or_the_bare_answer(kind: MathKind) -> None:
    assert kind.read_gold(r"We get $\boxed{1}$ or rather $\boxed{\sqrt{2}}$.") == r"\sqrt{2}"
    assert kind.read_gold(r" $\frac12$ ") == r"\frac12"


@pytest.mark.parametrize("text", ["", "  ", "$$", "x" * 2000])
def test_gold_that_is_no_answer_is_refused(kind: MathKind, text: str) -> None:
    with pytest.raises(ValueError, match=r"no answer in .*\\boxed"):
        kind.read_gold(text)


def test_the_kind_has_no_options() -> None:
    assert create({}).name == "math"
    with pytest.raises(ValueError, match="unknown option 'tolerance'"):
        create({"tolerance": 1})


def test_every_solution_of_math_answers_its_own_question(kind: MathKind) -> None:
    wrong = [s for s, gold in zip(solutions(), golds(), strict=True) if kind.read(s) != gold]
    assert wrong == []
    assert all(kind.same(gold, f" {gold}.") for gold in set(golds()))


def test_answers_of_math_equal_those_of_other_questions_only_where_listed() -> None:
    distinct = list(dict.fromkeys(golds()))
    structures = [read_structure(gold) for gold in distinct]
    equal = {
        (distinct[i], distinct[j])
        for i, j in combinations(range(len(distinct)), 2)
        if same(structures[i], structures[j], never)
    }
    assert equal == {tuple(pair) for pair in json.loads(EQUAL.read_text(encoding="utf-8"))}
    # The list is transitive: its pairs are those of disjoint classes.
    partners: dict[str, set[str]] = {}
    for a, b in equal:
        partners.setdefault(a, {a}).add(b)
        partners.setdefault(b, {b}).add(a)
    assert all(partners[a] == partners[b] for a, b in equal)


def test_the_judge_is_asked_about_two_answers_of_math_only(kind: MathKind) -> None:
    asked: set[tuple[str, str]] = set()

    def note(a: str, b: str) -> bool:
        asked.add((a, b))
        return False

    structures = [read_structure(gold) for gold in dict.fromkeys(golds())]
    for number, one in enumerate(structures):
        for other in (structures[number - 1], structures[number * 7919 % len(structures)]):
            same(one, other, note)
    assert all("f(" in a and "f(" in b for a, b in asked)
    assert not kind.same(*ONLY_JUDGED)


FRAGMENTS = st.sampled_from(
    re.findall(
        r"\S+",
        r"\frac { } \sqrt [ ] ( ) ^ _ 1 2 10 0 . , x y e i f( \pi \sin \log \pm = < \le \cup "
        r"\infty \text{ m \{ \} | ! + - * / : ; % \$ ° & \\ \begin{pmatrix} \end{pmatrix} "
        r"and ∞ ½ − ² \overline \boxed{ \left \right \binom \lfloor \rfloor \sum_{n=1}^{3} a.m. "
        r"\circ \x",
    )
)
BROKEN = st.lists(FRAGMENTS, max_size=12).map("".join)
NUMBERS = st.one_of(
    st.integers(-999, 9999).map(str),
    st.decimals(-99, 99, places=2).map(str),
    st.tuples(st.integers(-20, 20), st.integers(1, 20)).map(
        lambda n: rf"\frac{{{n[0]}}}{{{n[1]}}}"
    ),
)
TERMS = st.recursive(
    st.one_of(NUMBERS, st.sampled_from(["x", "y", r"\pi", "i", r"\sqrt{2}", "f(x)"])),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-"), inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
        inner.map(lambda term: rf"\sqrt{{{term}}}"),
        inner.map(lambda term: f"({term})^2"),
        st.lists(inner, min_size=2, max_size=3).map(", ".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda terms: f"({','.join(terms)})"),
        inner.map(lambda term: f"x = {term}"),
    ),
    max_leaves=6,
)


@given(st.one_of(st.text(), BROKEN, st.tuples(BROKEN, st.text(max_size=3)).map("\\boxed{".join)))
@settings(max_examples=300, deadline=None)
def test_reading_never_raises(text: str) -> None:
    kind = MathKind()
    answer = kind.read(text)
    assert answer is None or (answer.strip() == answer and answer)
    boxed = kind.read(rf"\boxed{{{text}}}")
    assert boxed is None or boxed


@given(st.one_of(st.text(), BROKEN, TERMS), st.one_of(st.text(), BROKEN, TERMS))
@settings(max_examples=300, deadline=None)
def test_sameness_is_reflexive_and_symmetric(kind: MathKind, a: str, b: str) -> None:
    assert kind.same(a, a)
    assert same(read_structure(a), read_structure(a), never)
    assert kind.same(a, b) == kind.same(b, a)


@given(TERMS)
@settings(max_examples=100, deadline=None)
def test_an_answer_equals_itself_in_other_clothes(kind: MathKind, term: str) -> None:
    assert kind.same(term, f"$ {term} $.")
    assert kind.same(term, term.replace(r"\frac", r"\dfrac").replace("(", r"\left("))


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000,
        "{" * 100_000 + "}" * 100_000,
        "(" * 3_900,
        r"\frac" * 700,
        r"\sqrt" * 700,
        r"\sin" * 700,
        "^" * 3_900,
        "x^-" * 1_300,
        "-" * 3_900,
        "9^" * 1_500 + "9",
        "1" * 3_900,
        "1," * 1_900,
        "1=" * 1_900,
        r"\pm" * 1_000,
        "1e9999999",
        r"9^{9^{9}}!",
        "1\x00\x1b[31m\ud800",
        r"\text{" * 600,
        "| " * 1_900,
        "5 cm " * 700,
        " " * 3_900 + "5",
        "a" * 3_000_000,
        r"\begin{pmatrix}" * 250,
    ],
    ids=lambda text: text[:8].encode("ascii", "replace").decode() + f"…{len(text)}",
)
def test_hostile_answers_are_survived(kind: MathKind, text: str) -> None:
    kind.read(text)
    kind.read(rf"\boxed{{{text}}}")
    assert kind.same(text, text)
    assert not kind.same(text, r"\frac{1}{7}")
    assert not kind.same(r"x+\frac{1}{7}", text)


def test_a_long_answer_equals_only_itself() -> None:
    assert isinstance(read_structure("1" * 5000), Words)
    assert not MathKind().same("1" * 5000, "0" + "1" * 5000)
