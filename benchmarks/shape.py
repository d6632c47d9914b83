"""The shape of the code: sizes, names, comments, and how its parts hang together.

    python benchmarks/shape.py [ROOT] [--static] [--show FIGURE]

Counts the product's files only (society, providers, finetune, evals, store), without tests.
Prints each figure beside its goal; ends with 1 where a goal is missed. `--show` lists what one
figure counts. `--static` leaves out the call path, which runs a small debate at a local server.
A room of society/ is a file or a folder in it; an arrow is an import between two rooms, however
many names it takes; a circle is a set of files that import each other in a loop.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

PACKAGES = ("society", "providers", "finetune", "evals", "store")
LAYERS = ({"society"}, {"finetune", "evals"}, {"store", "providers"})
SERVER = Path(__file__).parents[1] / "tests" / "providers" / "chat_server.py"
CLIENTS = re.compile(r"/site-packages/(openai|httpx)/")

IRREGULAR = re.compile(
    "told|said|spoken|shown|known|written|done|made|given|taken|drawn|sent|kept|left|found|met|seen"
    "|held|built|brought|bought|caught|chosen|begun|broken|gone|got|heard|laid|led|lost|paid|sold"
    "|spent|stood|stuck|taught|thought|torn|understood|won|worn|learnt|hidden|meant|bound"
)
# Words that look like participles and are verbs or nouns in their own right.
VERBS = frozenset({"need", "seed", "feed", "embed", "speed", "exceed"})

_EXPERIMENT = """
model = "openai+{url}:m"
stop_if_unread = 0
iterations = 0
[task]
name = "arithmetic"
[society]
agents = 2
rounds = 2
others = "quoted"
[evaluation]
questions = 1
decodings = ["sampled"]
[train]
questions = 4
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, its goal where it has one, and the places that it counts."""

    name: str
    value: float
    goal: float | None = None
    at_least: bool = False
    unit: str = ""
    places: tuple[str, ...] = ()

    @property
    def missed(self) -> bool:
        if self.goal is None:
            return False
        return self.value < self.goal if self.at_least else self.value > self.goal

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"{'≥' if self.at_least else '≤'} {self.goal:g}"
        mark = "  MISSED" if self.missed else ""
        return f"{self.name:44} {self.value:8g}{self.unit:2} {goal}{mark}"


class House:
    """The parsed product files under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = sorted(p for package in PACKAGES for p in (root / package).rglob("*.py"))
        self.sources = {p.relative_to(root): p.read_text("utf-8") for p in paths}
        self.trees = {path: ast.parse(source) for path, source in self.sources.items()}

    @cached_property
    def functions(self) -> list[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        return [
            (p, n) for p, tree in self.trees.items() for n in ast.walk(tree) if isinstance(n, kinds)
        ]

    @cached_property
    def imports(self) -> dict[Path, set[Path]]:
        """File by file, the product files that it imports, anywhere in it."""
        return {path: set(self._imports_of(path)) for path in self.trees}

    def _imports_of(self, path: Path) -> Iterator[Path]:
        for node in ast.walk(self.trees[path]):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                found = self._file_of(name)
                if found is not None and found != path:
                    yield found

    def _file_of(self, name: str) -> Path | None:
        """The file of a module, or of the module that a name is taken from."""
        if name.split(".")[0] not in PACKAGES:
            return None
        for module in (Path(*name.split(".")), Path(*name.split(".")[:-1])):
            for path in (module.with_suffix(".py"), module / "__init__.py"):
                if path in self.trees:
                    return path
        return None


def main() -> int:
    """Print the figures; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--static", action="store_true")
    parser.add_argument("--show", metavar="FIGURE", help="part of a figure's name")
    options = parser.parse_args()
    figures = measure_house(House(options.root))
    if not options.static:
        figures.append(measure_call_path(options.root))
    for figure in figures:
        print(figure)
        if options.show and options.show in figure.name:
            print("\n".join(f"    {place}" for place in figure.places))
    return 1 if any(figure.missed for figure in figures) else 0


def measure_house(house: House) -> list[Figure]:
    """Everything that can be read from the files alone."""
    return [*measure_files(house), *measure_names(house), *measure_imports(house)]


def measure_files(house: House) -> Iterator[Figure]:
    lines = {path: source.count("\n") for path, source in house.sources.items()}
    written = [n for path, n in lines.items() if path.name != "__init__.py"]
    by_size = sorted(lines.items(), key=lambda item: -item[1])
    sizes = tuple(f"{n:5} {path}" for path, n in by_size)
    yield Figure("files", len(lines), places=sizes)
    yield Figure("lines", sum(lines.values()))
    yield Figure("median lines of a file (without __init__)", median(written), 120, at_least=True)
    yield Figure("longest file, lines", by_size[0][1], 450, places=sizes[:20])
    long = sorted(
        ((node.end_lineno or 0) - node.lineno + 1, f"{path}:{node.lineno} {node.name}")
        for path, node in house.functions
    )
    places = tuple(f"{n:4} {place}" for n, place in reversed(long[-20:]))
    yield Figure("longest function, lines", long[-1][0], 60, places=places)
    yield Figure("median function, lines", median(n for n, _ in long))
    comments = {p: len(re.findall(r"^\s*#", s, re.M)) for p, s in house.sources.items()}
    share = 100 * sum(comments.values()) / sum(lines.values())
    bare = sorted(((n, p) for p, n in lines.items() if not comments[p] and n > 100), reverse=True)
    yield Figure(
        "comment lines", round(share, 1), 3, at_least=True, unit=" %",
        places=tuple(f"{n:5} {p}" for n, p in bare),
    )  # fmt: skip


def measure_names(house: House) -> Iterator[Figure]:
    classes: dict[str, set[str]] = defaultdict(set)
    for path, tree in house.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].add(str(path))
    doubled = sorted((name, sorted(paths)) for name, paths in classes.items() if len(paths) > 1)
    places = tuple(f"{name}: {', '.join(paths)}" for name, paths in doubled)
    yield Figure("class names", len(classes))
    yield Figure("class names in two or more modules", len(doubled), 5, places=places)
    bare = [(path, node) for path, node in house.functions if is_participle(node.name)]
    share = 100 * len(bare) / len(house.functions)
    yield Figure("functions", len(house.functions))
    yield Figure(
        "functions named by a bare participle", round(share, 1), 2, unit=" %",
        places=tuple(f"{path}:{node.lineno} {node.name}" for path, node in bare),
    )  # fmt: skip


def is_participle(name: str) -> bool:
    """Whether a function's name is one participle and nothing else, such as `_told`."""
    word = name.strip("_")
    if "_" in word or word in VERBS:
        return False
    return bool(IRREGULAR.fullmatch(word) or re.fullmatch(r"[a-z]{2,}(ed|ing)", word))


def measure_imports(house: House) -> Iterator[Figure]:
    rooms: dict[str, set[str]] = defaultdict(set)
    for path, found in house.imports.items():
        for other in found:
            a, b = room_of(path), room_of(other)
            if a and b and a != b:
                rooms[a].add(b)
    names = {room for path in house.trees if (room := room_of(path))}
    arrows = sorted(f"{a} -> {b}" for a, targets in rooms.items() for b in targets)
    yield Figure("rooms of society/", len(names), 15, places=tuple(sorted(names)))
    yield Figure("arrows between them", len(arrows), 55, places=tuple(arrows))
    circles = find_circles(house.imports)
    places = tuple(" <-> ".join(map(str, circle)) for circle in circles)
    yield Figure("circles of files", len(circles), 0, places=places)
    upward = [
        *(" <-> ".join(circle) for circle in find_circles(rooms)),
        *(f"{a} -> {b}" for a, found in house.imports.items() for b in found if points_up(a, b)),
    ]
    yield Figure("upward arrows", len(upward), 0, places=tuple(upward))


def room_of(path: Path) -> str | None:
    """The room of society/ that a file is in; its two __ files are its doors, no rooms."""
    is_door = len(path.parts) == 2 and path.name in ("__init__.py", "__main__.py")
    if path.parts[0] != "society" or is_door:
        return None
    return path.parts[1].removesuffix(".py")


def points_up(path: Path, other: Path) -> bool:
    floors = {package: floor for floor, layer in enumerate(LAYERS) for package in layer}
    a, b = path.parts[0], other.parts[0]
    return a != b and floors[b] <= floors[a]


def find_circles(graph: Mapping[Any, set[Any]]) -> list[list[Any]]:
    """The strongly connected components with two or more nodes, by Tarjan's algorithm."""
    order: dict[Any, int] = {}
    low: dict[Any, int] = {}
    stack: list[Any] = []
    found: list[list[Any]] = []

    def visit(node: Any) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    sys.setrecursionlimit(10_000)
    for node in graph:
        if node not in order:
            visit(node)
    return found


def measure_call_path(root: Path) -> Figure:
    """How many of our frames stand between a debate's answer and the HTTP client."""
    sys.path.insert(0, str(root))
    os.environ.setdefault("OPENAI_API_KEY", "no-key-is-asked-for")
    paths: list[tuple[str, ...]] = []
    profile = make_profiler(root.resolve(), paths.append)
    command = [sys.executable, str(SERVER), "--latency-ms", "1"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server,
    ):
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        file = Path(folder) / "shape.toml"
        file.write_text(_EXPERIMENT.format(url=url), "utf-8")
        run_experiment(file, Path(folder) / "runs", profile)
        assert server.stdin is not None
        server.stdin.close()
    # The longest way that begins in the debate: what counts is how deep an answer's call goes.
    places = max(paths, key=len, default=())
    if not places:
        raise SystemExit("no call of a debate reached the HTTP client")
    return Figure("frames between an answer and HTTP", len(places), 8, places=places)


def run_experiment(file: Path, runs: Path, profile: Callable[..., None]) -> None:
    """One run by the command line, in this process."""
    from society import cli

    sys.argv = ["society", "run", str(file), "--runs", str(runs)]
    output = io.StringIO()
    sys.setprofile(profile)
    try:
        with redirect_stdout(output), redirect_stderr(output):
            cli.main()
    except SystemExit as stop:
        if stop.code:
            raise SystemExit(f"the run failed: {output.getvalue()}") from stop
    finally:
        sys.setprofile(None)


def make_profiler(
    root: Path, add: Callable[[tuple[str, ...]], None]
) -> Callable[[FrameType, str, Any], None]:
    """What `sys.setprofile` calls: it adds our frames wherever one of them awaits the client."""

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        caller = frame.f_back
        if event != "call" or caller is None or "/site-packages/" in caller.f_code.co_filename:
            return
        code = frame.f_code
        if not (code.co_flags & inspect.CO_COROUTINE and CLIENTS.search(code.co_filename)):
            return
        chain, at = [], caller
        while at is not None:
            place = Path(at.f_code.co_filename)
            if place.is_relative_to(root) and "site-packages" not in place.parts:
                chain.append(f"{place.relative_to(root)}:{at.f_code.co_qualname}")
            at = at.f_back
        for index, place in enumerate(chain):
            if "debate.py" in place and not any("debate.py" in p for p in chain[index + 1 :]):
                add(tuple(reversed(chain[: index + 1])))

    return profile


if __name__ == "__main__":
    raise SystemExit(main())
