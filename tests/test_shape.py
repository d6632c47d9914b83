"""The code keeps its shape: what `benchmarks/shape.py` measures stays within its goals."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_SPEC = spec_from_file_location("shape", ROOT / "benchmarks" / "shape.py")
shape = module_from_spec(_SPEC)
sys.modules["shape"] = shape
_SPEC.loader.exec_module(shape)


def test_no_figure_misses_its_goal():
    figures = shape.measure_house(shape.House(ROOT))
    assert [str(figure) for figure in figures if figure.missed] == []


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("_told", True),
        ("shown", True),
        ("serving", True),
        ("build_rows", False),
        ("told_by", False),
        ("read", False),
        ("seed", False),
        ("is_read", False),
    ],
)
def test_a_bare_participle_is_told_from_other_names(name, counts):
    assert shape.is_participle(name) is counts


def test_a_circle_and_an_upward_arrow_are_found(tmp_path):
    for package in shape.PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "store" / "a.py").write_text("def f():\n    from store import b\n")
    (tmp_path / "store" / "b.py").write_text("from store.a import f\nfrom evals.c import g\n")
    (tmp_path / "evals" / "c.py").write_text("def g(): ...\n")
    figures = {f.name: f for f in shape.measure_imports(shape.House(tmp_path))}
    assert figures["circles of files"].places == ("store/a.py <-> store/b.py",)
    assert figures["upward arrows"].places == ("store/b.py -> evals/c.py",)


def test_a_doubled_class_and_a_long_function_are_found(tmp_path):
    for package in shape.PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "store" / "a.py").write_text("class Row: ...\n" + "def f():\n" + "    x = 1\n" * 70)
    (tmp_path / "evals" / "c.py").write_text("class Row: ...\n")
    house = shape.House(tmp_path)
    missed = {figure.name for figure in shape.measure_house(house) if figure.missed}
    assert {"longest function, lines", "comment lines"} <= missed
    [doubled] = [f for f in shape.measure_names(house) if "two or more" in f.name]
    assert doubled.places == ("Row: evals/c.py, store/a.py",)
