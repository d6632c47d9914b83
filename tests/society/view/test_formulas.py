"""Formulas in what models write: shown where they can be read, else their source."""

import html
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from society.view.formulas import Formula, Typesetter, split_formulas
from society.view.mathml import LONGEST_FORMULA, write_mathml

TEXT = st.text() | st.lists(
    st.sampled_from(
        re.findall(
            r"\S+",
            r"\( \) \[ \] $ $$ { } \frac \text{ \boxed{ \begin{align} \end{align} \\ & ^ _ x 1 <b> "
            r"\left( \right) \sqrt % &lt; &#x3c; \href{javascript:x}{ \style{",
        )
    )
).map("".join)


def split(text):
    return [(p.body, p.display) if isinstance(p, Formula) else p for p in split_formulas(text)]


def read(markup):
    """The text of markup, without tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", str(markup)))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (r"a \(x\) b", ["a ", ("x", "inline"), " b"]),
        (r"\[x\]", [("x", "block")]),
        ("$$x$$ and $y$", [("x", "block"), " and ", ("y", "inline")]),
        ("It costs $5 and $6.", ["It costs $5 and $6."]),
        ("$5-$6 or US$ 7", ["$5-$6 or US$ 7"]),
        ("$x$ or $6 or US$", [("x", "inline"), " or $6 or US$"]),
        (r"\$5 is \$5", [r"\$5 is \$5"]),
        (r"so \boxed{\frac{1}{2}}.", ["so ", (r"\boxed{\frac{1}{2}}", "inline"), "."]),
        (r"\boxed{\text{a \} b}} c", [(r"\boxed{\text{a \} b}}", "inline"), " c"]),
        (r"\begin{align}x\end{align}", [(r"\begin{align}x\end{align}", "block")]),
        (r"\begin{document}x\end{document}", [r"\begin{document}x\end{document}"]),
        (r"\(never closed", [r"\(never closed"]),
        ("$a\n\nb$", ["$a\n\nb$"]),
        (r"\boxed{never closed", [r"\boxed{never closed"]),
    ],
)
def test_formulas_are_found_and_money_is_not(text, pieces):
    assert split(text) == pieces


@given(TEXT)
@settings(deadline=None)
def test_no_character_is_lost(text):
    pieces = split_formulas(text)
    assert "".join(p if isinstance(p, str) else p.source for p in pieces) == text


@given(TEXT)
@settings(max_examples=200, deadline=None)
def test_whatever_is_written_the_markup_holds_known_elements_and_shows_every_source(text):
    shown = str(Typesetter().typeset_text(text))
    for tag, attributes in re.findall(r"<(\w+)([^>]*)>", shown):
        assert tag == "span" or tag.startswith("m"), shown
        assert not re.search(r"\b(on\w+|href|style|id|src)=", attributes), shown
    # Without what is shown in place of the sources, the text is complete.
    plain = re.sub(r"<math\b.*?</math>", "", shown, flags=re.S)
    marks = re.compile(r'<span class="hidden-character" title="U\+\w+ [^"]*">[^<]*</span>')
    if not marks.search(plain):
        assert read(plain) == text


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        (r"\frac{1}{2}", "12"),
        (r"x^2 + y_1 \le \sqrt{3}", "x2+y1≤3"),
        (r"\text{apples \& pears}", "apples\xa0&\xa0pears"),
        (r"\boxed{\text{<b>no</b>}}", "<b>no</b>"),
        (r"\begin{pmatrix}1 & 2\\3 & 4\end{pmatrix}", "(1234)"),
        (r"\begin{align}a &= b\\ c &= d\end{align}", "a=bc=d"),
        (r"\begin{aligned}a &= b\\ c &= d\end{aligned}", "a=bc=d"),
        (r"\text{&lt;script&gt;}", "&lt;script&gt;"),
        (r"100\%", "100%"),
        (r"\sum_{i=1}^{n} i", "∑i=1ni"),
    ],
)
def test_a_formula_becomes_mathml_that_says_the_same(formula, said):
    shown = str(write_mathml(formula))
    tree = ET.fromstring(shown)
    assert tree.tag == "math"
    assert "".join(tree.itertext()) == said


@pytest.mark.parametrize(
    "formula",
    [
        r"\href{javascript:alert(1)}{x}",
        r"\style{position:fixed}{x}",
        r"\class{top}{x}",
        r"\color{red;background:url(//evil)}x",
        r"\newcommand{\a}{\b\b}\a",
        r"\def\a{\a\a}\a",
        r"x \phantom{not seen} y",
        r"\rlap{over}under",
        r"\rule{99em}{99em}",
        r"\hspace{-99em}x",
        r"\unicode{x202E}x",
        r"\text{&#x202e;x}",
        "x\u202ey",
        "5 % and what nobody sees",
        r"\cancel{x}",
        r"\unknowncommand{x}",
        r"\frac{1}",
        r"x^1^2",
        r"\left( x",
        r"\begin{align}x",
        r"\begin{tabular}{l}x\end{tabular}",
        "{" * 3_000,
        "{" * 600 + "x" + "}" * 600,
        r"\sqrt" * 250 + "x",
        r"\left(" * 200 + "x" + r"\right)" * 200,
        "x" * (LONGEST_FORMULA + 1),
        " ",
    ],
)
def test_what_hides_moves_defines_or_is_not_understood_is_shown_as_it_is_written(formula):
    assert write_mathml(formula) is None
    assert read(Typesetter().typeset_text(f"\\({formula}\\)")).startswith("\\(")


def test_a_page_typesets_only_so_much():
    setter = Typesetter(budget=50)
    shown = str(setter.typeset_text(r"\(x+y+z\) " * 20))
    assert shown.count("<math") == 10
    assert "<math" not in str(setter.typeset_text(r"\(y\)"))


def test_openings_without_an_end_are_given_up_on():
    text = "$1" * 20_000 + r" \(x\)"
    assert str(Typesetter().typeset_text(text)).replace("&#39;", "'") == text


@pytest.mark.parametrize(
    ("answer", "typeset"),
    [(r"\frac{3}{4}", True), ("x^2", True), ("42", False), ("C", False), ("a_", False),
     (r"\(x\)", True), ("<b>x</b>", False)],
)  # fmt: skip
def test_an_answer_may_be_latex_without_delimiters(answer, typeset):
    shown = str(Typesetter().typeset_answer(answer))
    assert ("<math" in shown) is typeset
    if not typeset:
        assert html.unescape(shown) == answer


def test_a_line_is_cut_between_formulas():
    setter = Typesetter()
    assert read(setter.typeset_line("one two three", 7)) == "one two…"
    cut = str(setter.typeset_line(r"so \(\frac{1}{2}\) is less", 10))
    assert "<math" not in cut
    assert read(cut) == "so …"
    assert "<math" in str(setter.typeset_line(r"so \(\frac{1}{2}\) is less", 100))
