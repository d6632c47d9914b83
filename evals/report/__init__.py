"""The report of one or more runs: a page without network, and its figures and tables as files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from evals.report import facts as collecting
from evals.report import page
from store.ledger import Store

PAGE = "report.html"


def write_report(stores: Sequence[Store], out: Path, *, quote: bool = True) -> None:
    """Write the report of the stores' runs: runs that differ in nothing but the seed count as one
    experiment, others stand side by side.

    `out` ending in .html is one page; anything else is a folder, which gets the page, `figures/`
    (SVG, PDF, PNG; needs matplotlib) and `tables/` (CSV, Markdown, LaTeX). `quote` shows the
    paper's numbers where a task is one of its. Each file is written whole or not at all.

    Raises `NothingStored` for a store without a run, `SameRun` for a run given twice, ValueError
    for none, and OSError where `out` cannot be written.
    """
    facts = collecting.collect_facts(stores, quote=quote)
    if out.suffix in (".html", ".htm"):
        _put(out, page.render_page(facts).encode())
        return
    from evals.report import export

    for name, content in export.build_files(facts).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        _put(out / name, content)
    _put(out / PAGE, page.render_page(facts).encode())


def _put(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    os.replace(draft, path)
