"""The report's tables and figures as files: CSV, Markdown, LaTeX; SVG, PDF, PNG."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from evals import markdown
from evals.invisible import one_line
from evals.report import figures as drawing
from evals.report import page, tables
from evals.report.facts import Facts
from evals.report.figures.figure import assign_looks
from evals.report.table import Cell, ReportTable
from store import output_files

# What LaTeX would take for a command, or a font without the sign would leave out.
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "→": r"$\rightarrow$",
    "−": "$-$",
    "–": "--",
    # After a row's end LaTeX would read these as the row's options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "`": r"\textasciigrave{}",
    "|": r"\textbar{}",
    "≡": r"$\equiv$",
    "×": r"$\times$",
    "ŷ": r"$\hat{y}$",
}


def build_files(facts: Facts) -> dict[str, bytes]:
    """Content by path within the report's folder. Equal facts give equal files."""
    kinds: dict[str, Callable[[ReportTable], str]] = {
        "csv": to_csv,
        "md": to_markdown,
        "tex": to_latex,
    }
    found = {
        f"tables/{name}.{kind}": write(table).encode()
        for name, table in tables.build_tables(facts).items()
        for kind, write in kinds.items()
    }
    if page.can_draw():
        from evals.report.figures import draw

        marks = assign_looks(facts.arms)
        for name, figure in drawing.build_figures(facts).items():
            for kind, content in draw.draw_files(figure, marks).items():
                found[f"figures/{name}.{kind}"] = content
    return found


def to_csv(table: ReportTable) -> str:
    """Shares in %, intervals in columns of their own, nothing rounded for show; text that begins
    like a formula is quoted for spreadsheets."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    # An interval takes three columns, so that programs need not take a cell apart.
    head = [name for column in table.columns for name in column.names]
    for row in (head, *([field for cell in row for field in cell.fields] for row in table.rows)):
        writer.writerow([output_files.escape_formula(field) for field in row])
    return file.getvalue()


def to_markdown(table: ReportTable) -> str:
    """A table for people, in GitHub's Markdown, with its note."""
    rows = [
        [markdown.escape_markdown(column.title) for column in table.columns],
        ["---" if column.text else "---:" for column in table.columns],
        *([markdown.escape_markdown(_join_aside(cell)) for cell in row] for row in table.rows),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    title, note = markdown.escape_markdown(table.title), markdown.escape_markdown(table.explanation)
    return "\n".join([f"**{title}**", "", *lines, "", note, ""]).rstrip() + "\n"


def to_latex(table: ReportTable) -> str:
    """A table environment for a paper; needs the package booktabs."""
    alignment = "".join("l" if column.text else "r" for column in table.columns)
    lines = [
        r"\begin{table}",
        rf"\caption{{{escape_latex(table.title)}. {escape_latex(table.explanation)}}}".replace(
            ". }", ".}"
        ),
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(escape_latex(column.title) for column in table.columns) + r" \\",
        r"\midrule",
        *(
            " & ".join(escape_latex(_join_aside(cell)) for cell in row) + r" \\"
            for row in table.rows
        ),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it stands, on one line."""
    # LaTeX would join two hyphens to a dash; an empty group between them keeps both.
    words = one_line(text).replace("--", "-{}-")
    return "".join(_LATEX.get(letter, letter) for letter in words).replace(r"-\{\}-", "-{}-")


def _join_aside(cell: Cell) -> str:
    return f"{cell.shown} ({cell.aside})" if cell.aside else cell.shown
