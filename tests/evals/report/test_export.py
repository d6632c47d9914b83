import csv
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals import report
from evals.report import export, facts, figures, tables
from evals.report.figures import draw, inline
from evals.report.figures.figure import (
    GRID,
    INK,
    PALETTE,
    PAPER,
    SOFT,
    assign_looks,
    light_color,
)
from evals.report.table import (
    DIFFERENCE,
    NUMBER,
    PERCENT_INTERVAL,
    Column,
    ReportTable,
    Span,
    decimals,
    fill,
)
from store.ledger import Store

COLUMNS: tuple[Column[tuple[str, Span | None]], ...] = (
    Column("arm", "arm", lambda row: row[0]),
    Column("right, %", "right", lambda row: row[1], PERCENT_INTERVAL),
)
ROWS = [("a_b & c|d\\\n$x$ 5 %", Span(0.5, 0.25, 0.75)), ("<b>–", None)]
TABLE = ReportTable("small", "A small | table", COLUMNS, fill(COLUMNS, ROWS), "Its note.")


@pytest.fixture(scope="module")
def runs(arms_of, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Store]]:
    """Two seeds of a small experiment."""
    opened = []
    for seed in range(2):
        store = Store.open(tmp_path_factory.mktemp(f"small-s{seed}-") / "run.duckdb")
        store.write(*arms_of(seed=seed, questions=6, kinds=("multiagent", "single-agent", "base")))
        opened.append(store)
    yield opened
    for store in opened:
        store.close()


@pytest.fixture(scope="module")
def whole(runs) -> facts.Facts:
    return facts.collect_facts(runs)


@pytest.fixture(scope="module")
def folder(runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "paper"
    report.write_report(runs, out)
    return out


def test_a_folder_holds_the_page_every_figure_and_every_table(folder: Path, whole) -> None:
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    drawn = {
        f"{name}.{kind}" for name in figures.build_figures(whole) for kind in ("svg", "pdf", "png")
    }
    written = {
        f"{name}.{kind}" for name in tables.build_tables(whole) for kind in ("csv", "md", "tex")
    }
    assert {path.name for path in (folder / "figures").iterdir()} == drawn
    assert {path.name for path in (folder / "tables").iterdir()} == written
    for path in (folder / "figures").iterdir():
        begin = {".svg": b"<?xml", ".pdf": b"%PDF-", ".png": b"\x89PNG"}[path.suffix]
        assert path.read_bytes().startswith(begin)


def test_equal_facts_give_equal_files(folder: Path, whole) -> None:
    marks = assign_looks(whole.arms)
    drawn = figures.build_figures(whole)
    for name in ("differences", "figure-4-accuracy-diversity"):
        for kind, content in draw.draw_files(drawn[name], marks).items():
            assert (folder / "figures" / f"{name}.{kind}").read_bytes() == content, name
    for name, table in tables.build_tables(whole).items():
        assert (folder / "tables" / f"{name}.csv").read_text() == export.to_csv(table)


def test_no_file_knows_when_or_where_it_was_made(folder: Path) -> None:
    for path in (folder / "figures").iterdir():
        content = path.read_bytes()
        assert not re.search(rb"20\d\d-\d\d-\d\dT|CreationDate|matplotlib\.org", content), path


def test_csv_has_intervals_in_columns_of_their_own() -> None:
    rows = list(csv.reader(io.StringIO(export.to_csv(TABLE))))
    assert rows == [
        ["arm", "right", "right_low", "right_high"],
        ["a_b & c|d\\\n$x$ 5 %", "50", "25", "75"],
        ["<b>–", "", "", ""],
    ]


def test_every_csv_row_has_as_many_fields_as_the_head(whole) -> None:
    for name, table in tables.build_tables(whole).items():
        rows = list(csv.reader(io.StringIO(export.to_csv(table))))
        assert {len(row) for row in rows} == {len(rows[0])}, name
        assert len(rows) == 1 + len(table.rows)


def test_markdown_keeps_cells_in_their_place() -> None:
    lines = export.to_markdown(TABLE).splitlines()
    assert lines[0] == "**A small \\| table**"
    assert lines[2:] == [
        "| arm | right, % |",
        "| --- | ---: |",
        "| a\\_b \\& c\\|d\\\\ \\$x\\$ 5 % | 50.0 (25.0–75.0) |",
        "| \\<b\\>– | – |",
        "",
        "Its note.",
    ]


def test_latex_is_escaped() -> None:
    text = export.to_latex(TABLE)
    assert r"a\_b \& c\textbar{}d\textbackslash{} \$x\$ 5 \% & 50.0 (25.0--75.0) \\" in text
    assert r"\begin{tabular}{lr}" in text


HOSTILE_NAMES = [
    ("=HYPERLINK(1)", "'=HYPERLINK(1)", "=HYPERLINK(1)", "=HYPERLINK(1)"),
    ("-2+3", "'-2+3", "-2+3", "-2+3"),
    ("-2.5", "-2.5", "-2.5", "-2.5"),
    ("[a](http://b)", "[a](http://b)", r"\[a\](http\://b)", "{[}a{]}(http://b)"),
    ("x\x1b[31m\u202e", "x\x1b[31m\u202e", r"x\[ESC\[31m\]\[RLO\]", "x{[}ESC{[}31m{]}{[}RLO{]}"),
    ("`c` *d*", "`c` *d*", r"\`c\` \*d\*", r"\textasciigrave{}c\textasciigrave{} {*}d{*}"),
    ("--x", "'--x", "--x", "-{}-x"),
]


@pytest.mark.parametrize(("name", "in_csv", "in_markdown", "in_latex"), HOSTILE_NAMES)
def test_a_name_is_text_in_every_form(name, in_csv, in_markdown, in_latex) -> None:
    columns = (Column(name, name, str),)
    table = ReportTable("t", name, columns, fill(columns, [name]), note=name)
    assert list(csv.reader(io.StringIO(export.to_csv(table)))) == [[in_csv], [in_csv]]
    lines = export.to_markdown(table).splitlines()
    assert lines[0] == f"**{in_markdown}**"
    assert lines[2] == lines[4] == f"| {in_markdown} |"
    assert lines[-1] == in_markdown
    rows = export.to_latex(table).splitlines()
    assert rows[5] == rows[7] == f"{in_latex} \\\\"


def test_html_markdown_and_csv_tell_the_same_number(folder: Path) -> None:
    with (folder / "tables" / "table-1.csv").open(newline="") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    page = (folder / "report.html").read_text()
    markdown = (folder / "tables" / "table-1.md").read_text()
    latex = (folder / "tables" / "table-1.tex").read_text()
    for arm in ("multiagent", "single-agent", "base"):
        shown = f"{float(rows[arm]['arithmetic_vote']):.1f}"
        low, high = (f"{float(rows[arm][f'arithmetic_vote_{end}']):.1f}" for end in ("low", "high"))
        assert f'{shown} <span class="ci">{low}–{high}</span>' in page
        assert f"{shown} ({low}–{high})" in markdown
        assert f"{shown} ({low}--{high})" in latex


def test_every_arm_looks_its_own_way_and_keeps_it(whole) -> None:
    marks = assign_looks(whole.arms)
    again = assign_looks(whole.arms[:2])
    assert all(marks[name] == look for name, look in again.items())
    assert len({(look.marker, look.filled) for look in marks.values()}) == len(marks)
    assert len({(look.color, look.dash) for look in marks.values()}) == len(marks)
    used = [light_color(look) for look in marks.values()]
    assert not set(used) & {INK, SOFT, GRID, PAPER}


def test_sixty_variants_still_get_looks(society_store) -> None:
    import json

    from store.records import StoredArm

    store = society_store(kinds=("multiagent",), questions=2, iterations=1)
    store.write(
        *(
            StoredArm(f"variant-{n}", n, "multiagent", "final", json.dumps({"agents": n}))
            for n in range(1, 61)
        )
    )
    found = facts.collect_facts([store])
    assert len(assign_looks(found.arms)) == 61


def test_a_page_takes_its_colours_from_variables(whole) -> None:
    figure = figures.build_figures(whole)["figure-1-accuracy"]
    drawn = draw.draw_panel(figure.panels[0], assign_looks(whole.arms))
    assert all(colour in drawn for colour in (INK, SOFT, GRID))
    shown = inline.inline_svg(drawn, "x", 'a "b" <c>')
    assert "var(--blue)" in shown
    assert not re.search(r"#[0-9a-f]{6}\b", shown.replace("#x-", ""))
    assert "font:" not in shown
    assert 'aria-label="a &#34;b&#34; &lt;c&gt;"' in shown
    assert "<metadata" not in shown
    assert "<style" not in shown


def test_light_and_dark_colours_stand_out_from_the_page() -> None:
    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for light, dark in PALETTE.values():
        assert contrast(light, "#ffffff") >= 3, light
        assert contrast(dark, "#16181b") >= 3, dark


def test_dollars_in_a_label_are_no_mathematics(whole) -> None:
    from dataclasses import replace

    panel = figures.build_figures(whole)["figure-1-accuracy"].panels[0]
    drawn = draw.draw_panel(replace(panel, title="$x^2$ <b>"), assign_looks(whole.arms))
    assert "$x^2$ &lt;b&gt;" in drawn


def test_without_matplotlib_the_page_has_its_tables_and_says_how_to_get_figures(
    arms_of, tmp_path: Path
) -> None:
    made = tmp_path / "run.duckdb"
    with Store.open(made) as store:
        store.write(*arms_of(questions=4, iterations=1))
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from evals import report\n"
        "from store.ledger import Store\n"
        f"store = Store.open({str(made)!r}, read_only=True)\n"
        f"report.write_report([store], Path({str(tmp_path / 'plain')!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "plain" / "report.html").read_text()
    assert "pip install &#39;multiagent-finetuning[report]&#39;" in page
    assert "Against the alternatives" in page
    assert "<figure>" not in page
    assert not (tmp_path / "plain" / "figures").exists()
    assert (tmp_path / "plain" / "tables" / "table-1.csv").is_file()


def test_numbers_and_points_are_written_with_a_real_minus() -> None:
    from evals.intervals import PairedDifference

    change = PairedDifference(0.5, 0.45, -0.05, -0.1, 0.0, 20)
    cell = DIFFERENCE.write(change)
    assert (cell.shown, cell.aside) == ("−5.0", "−10.0 to +0.0")
    assert cell.fields == ("-5", "-10", "0")
    assert decimals(1).write(-1234.5).shown == "−1,234.5"
    assert NUMBER.write(None).fields == ("",)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_tables_can_be_set(folder: Path, tmp_path: Path) -> None:
    inputs = "\n".join(rf"\input{{{path}}}" for path in sorted((folder / "tables").glob("*.tex")))
    source = (
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}"
        rf"\begin{{document}}{inputs}\end{{document}}"
    )
    (tmp_path / "all.tex").write_text(source)
    subprocess.run(
        ["pdflatex", "-interaction=batchmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
