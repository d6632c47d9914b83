"""Without a package that only some uses need, every command says how to install it.

Absence is made in a process of its own, before anything is imported: Python's own finder does not
find the packages. The long test installs the wheel with each extra for real.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from providers import extras
from providers.embedded import MODEL_DIR

ROOT = Path(__file__).parents[2]
ABSENCE = """
import sys
from importlib.machinery import PathFinder

ABSENT = set({absent!r})

class Finder:
    def __getattr__(self, name):
        return getattr(PathFinder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder()
"""
COMMANDS = """
import contextlib, io, json, sys
from society import cli

def call(*arguments):
    sys.argv = ["society", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0, out.getvalue(), err.getvalue()

print(json.dumps([call(*arguments) for arguments in json.loads(sys.argv[1])]))
"""
EXPERIMENT = """
model = "{model}"
iterations = 1
task = {{ name = "arithmetic" }}
society = {{ agents = 2 }}
train = {{ questions = 4 }}
evaluation = {{ questions = 4 }}
"""
API, LOCAL = extras.install_command("api"), extras.install_command("local")


@pytest.fixture
def without(tmp_path):
    """Run commands where some packages are absent; gives status, stdout and stderr of each."""

    def run(absent: list[str], *commands: str) -> list[tuple[int, str, str]]:
        (tmp_path / "sitecustomize.py").write_text(ABSENCE.format(absent=absent))
        path = os.pathsep.join((str(tmp_path), str(ROOT)))
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, json.dumps([each.split() for each in commands])],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path, "OPENAI_API_KEY": "none"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = [tuple(each) for each in json.loads(done.stdout)]
        for _, out, err in found:
            assert "bug in society" not in err
            assert "Traceback" not in out + err
        return found

    return run


@pytest.fixture
def experiments(tmp_path, scripted) -> None:
    """Experiments on a model of every kind, and debates to import."""
    scripted(tmp_path)
    models = {"api": "openai:gpt-4.1-mini", "own": "openai+http://127.0.0.1:9/v1:m"}
    for name, model in (models | {"here": "embedded:", "folder": f"local:{MODEL_DIR}"}).items():
        (tmp_path / f"{name}.toml").write_text(EXPERIMENT.format(model=model))
    said = {"question": "1+1", "round": 1, "response": "\\boxed{2}", "gold": "2"}
    lines = (json.dumps(said | {"agent": agent}) for agent in (1, 2))
    (tmp_path / "told.jsonl").write_text("\n".join(lines))


def absent_with(*installed: str) -> list[str]:
    names = {name for extra in extras.PACKAGES for name in extras.PACKAGES[extra]}
    return sorted(names - {name for extra in installed for name in extras.PACKAGES[extra]})


@pytest.mark.usefixtures("experiments")
def test_the_bare_package_names_the_extra_of_everything_it_lacks(without):
    wanted = {
        "doctor api.toml": API,
        "doctor own.toml": API,
        "cost api.toml": API,
        "run api.toml": API,
        "sweep api.toml --seeds 0,1": API,
        "import told.jsonl --name i --config api.toml": API,
        "doctor here.toml": LOCAL,
        "run here.toml": LOCAL,
        "run folder.toml": LOCAL,
        "sweep here.toml --seeds 0,1 --jobs 1": LOCAL,
        "view": extras.install_command("view"),
    }
    for command, (status, out, err) in zip(wanted, without(absent_with(), *wanted), strict=True):
        assert status == 2, (command, out, err)
        assert wanted[command] in out + err, command


@pytest.mark.usefixtures("experiments")
def test_the_bare_package_does_everything_that_needs_no_extra(without):
    commands = (
        "run scripted.toml --name r",
        "status r",
        "report r",
        'sql r FROM"accuracy" --format json',
        'sql r FROM"turns" --out t.parquet',
        "export r --format csv",
        "export r --format hf --out hf",
        "cancel r",
        "cost here.toml",
        "doctor scripted.toml",
        "import told.jsonl --name i --answers math",
    )
    for command, (status, out, err) in zip(
        commands, without(absent_with(), *commands), strict=True
    ):
        assert status == 0, (command, out, err)


@pytest.mark.usefixtures("experiments")
def test_one_extra_does_not_stand_in_for_another(without):
    of_api, of_local = ("doctor here.toml", "run here.toml"), ("doctor api.toml", "run api.toml")
    for installed, line, commands in (("api", LOCAL, of_api), ("local", API, of_local)):
        for status, out, err in without(absent_with(installed), *commands):
            assert status == 2, (installed, out, err)
            assert line in out + err


def test_a_single_missing_package_is_named(without, experiments):
    for package in ("tenacity", "httpx2", "aiohttp"):
        [(status, out, err)] = without([package], "run api.toml")
        assert status == 2
        assert package in out + err
        assert API in out + err


def test_a_module_of_no_extra_is_no_extras(capsys):
    assert extras.explain_import_error(ModuleNotFoundError("x", name="unheard_of")) is None
    with extras.name_missing_extras(), pytest.raises(ModuleNotFoundError):
        raise ModuleNotFoundError("x", name="unheard_of")


def test_every_package_of_every_extra_is_known():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    provided = packages_distributions()
    for extra, wanted in project["optional-dependencies"].items():
        names = {re.split(r"[^\w-]", requirement)[0] for requirement in wanted}
        for name in names - {extras.PROJECT, "duckdb"} if extra != "dev" else ():
            modules = {m for m, dists in provided.items() if name in dists} or {
                name.replace("-", "_")
            }
            assert modules & set(extras.PACKAGES[extra]), (extra, name)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("experiments")
@pytest.mark.parametrize("extra", ["", *extras.PACKAGES])
def test_every_command_of_the_installed_wheel_names_what_it_lacks(extra, tmp_path):
    wheel = build_wheel(tmp_path)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    # The pinned torch is the one without gigabytes of CUDA.
    pinned = ("-c", ROOT / "constraints.txt")
    subprocess.run([python, "-m", "pip", "install", "-q", *pinned, what], check=True)
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    local = extra in ("local", "gguf", "diversity", "quantized")
    lines = {
        "doctor api.toml": None if extra == "api" else API,
        "cost api.toml": None if extra == "api" else API,
        "run api.toml": None if extra == "api" else API,
        "import told.jsonl --name i --config api.toml": None if extra == "api" else API,
        "doctor here.toml": None if local else LOCAL,
        "run here.toml --set iterations=0 --name h": None if local else LOCAL,
        "view nothing": None if extra == "view" else extras.install_command("view"),
        **dict.fromkeys(("run scripted.toml --name r", "report r", "export r", "status r")),
    }
    for command, line in lines.items():
        done = subprocess.run(
            [python, "-m", "society", *command.split()],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        told = done.stdout + done.stderr
        assert "bug in society" not in told, (command, told)
        assert "Traceback" not in told, (command, told)
        assert (line or "") in told, (command, told)
        assert ("pip install" in told) == (line is not None), (command, told)


def build_wheel(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = folder.glob("*.whl")
    return wheel
