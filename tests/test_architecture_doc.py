"""docs/architecture.md names files, functions and rooms that exist, and all rooms there are."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PACKAGES = ("society", "providers", "finetune", "evals", "store")


def names_in(path: Path) -> set[str]:
    """What a module defines at its top, and the methods of its classes as Class.method."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if hasattr(n, "name")}
            fields = [n.target for n in node.body if isinstance(n, ast.AnnAssign)]
            names |= {f"{node.name}.{f.id}" for f in fields if isinstance(f, ast.Name)}
        if isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        names |= {node.name} if hasattr(node, "name") else set()
    return names


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(rf"`((?:{'|'.join(PACKAGES)}|docs|benchmarks)/[\w./]*)`", TEXT)))
)
def test_every_file_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize(
    ("name", "path"),
    [*re.findall(r"`([\w.]+)` in\s+`([\w/]+\.py)`", TEXT), ("ARM_KINDS", "evals/arm_kinds.py")],
)
def test_every_name_is_in_its_file(name, path):
    assert name in names_in(ROOT / path)


def test_every_name_of_code_is_followed():
    """A name that looks like code stands with its file, or is one of a file named beside it."""
    known = set().union(*(names_in(p) for d in PACKAGES for p in (ROOT / d).rglob("*.py")))
    tables = set(re.findall(r"CREATE TABLE (\w+)", "".join(
        p.read_text("utf-8") for p in (ROOT / "store" / "migrations").glob("*.sql")
    )))  # fmt: skip
    views = {p.stem for p in (ROOT / "store" / "views").glob("*.sql")}
    said = {word for word in re.findall(r"`([A-Za-z_][\w.]*)`", TEXT) if "/" not in word}
    assert {w for w in said if w not in known | tables | views and not w.endswith(".py")} == set()


def test_the_drawing_has_every_room():
    drawing = TEXT.split("```")[1]
    rooms = {p.name for p in (ROOT / "society").iterdir() if p.is_dir() and list(p.glob("*.py"))}
    rooms |= {p.stem for p in (ROOT / "society").glob("*.py") if not p.stem.startswith("__")}
    assert {room for room in rooms if not re.search(rf"\b{room}\b", drawing)} <= {"siblings"}
    assert all(f"{package}/" in drawing for package in PACKAGES)
