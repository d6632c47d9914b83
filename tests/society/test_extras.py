"""Without a package that only some uses need, every command says how to install it.

Absence is made in a process of its own, before anything is imported: Python's own finder does not
find the packages. The long test installs the wheel with each extra for real.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
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
RAY = extras.install_command("ray")


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
    tracking = scripted(tmp_path).read_text()
    (tmp_path / "tracked.toml").write_text(f'tracking = ["tensorboard"]\n{tracking}')
    models = {"api": "openai:gpt-4.1-mini", "own": "openai+http://127.0.0.1:9/v1:m"}
    for name, model in (models | {"here": "embedded:", "folder": f"local:{MODEL_DIR}"}).items():
        (tmp_path / f"{name}.toml").write_text(EXPERIMENT.format(model=model))
    there = EXPERIMENT.format(model="embedded:") + 'cluster = { ray = "auto" }'
    (tmp_path / "there.toml").write_text(there)
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
        "doctor tracked.toml": extras.install_command("tensorboard"),
        "run tracked.toml": extras.install_command("tensorboard"),
        "view": extras.install_command("view"),
        "serve told": extras.install_command("serve"),
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
    wanted = {
        "api": {"doctor here.toml": LOCAL, "run here.toml": LOCAL},
        "local": {"doctor api.toml": API, "run api.toml": API, "run there.toml": RAY},
    }
    for installed, lines in wanted.items():
        found = without(absent_with(installed), *lines)
        for line, (status, out, err) in zip(lines.values(), found, strict=True):
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


# Modules that are not named like their package, of packages that this environment may lack.
NOT_INSTALLED = {
    "mlflow-skinny": "mlflow",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry-sdk": "opentelemetry.sdk",
}


def test_every_package_of_every_extra_is_known():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    provided = packages_distributions()
    for extra, wanted in project["optional-dependencies"].items():
        names = {re.split(r"[^\w-]", requirement)[0] for requirement in wanted}
        for name in names - {extras.PROJECT, "duckdb"} if extra != "dev" else ():
            modules = {m for m, dists in provided.items() if name in dists}
            modules.add(NOT_INSTALLED.get(name, name.replace("-", "_")))
            assert modules & set(extras.PACKAGES[extra]), (extra, name)


STAGES = [
    (),
    ("report", "view", "serve", "api", "bedrock", "gemini"),
    ("local", "gguf", "diversity"),
    # Without large trackers; Trackio takes no Pillow that is as new as the pinned one.
    tuple(name for name in extras.PACKAGES if name not in ("trackio", "wandb", "mlflow")),
]
"""Extras in the order in which one environment gets them; every stage keeps those before it."""


@pytest.fixture
def bare_python():
    """A Python with pip and nothing else. Its folder, which grows large, is on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        yield Path(folder, "bin/python")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("experiments")
def test_every_command_of_the_installed_wheel_names_what_it_lacks(bare_python, tmp_path):
    wheel = build_wheel(tmp_path)
    # The pinned torch is the one without gigabytes of CUDA.
    pip = [bare_python, "-m", "pip", "install", "-q", "--no-compile"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    for number, stage in enumerate(STAGES):
        what = f"{wheel}[{','.join(stage)}]" if stage else str(wheel)
        subprocess.run([*pip, "-c", ROOT / "constraints.txt", what], check=True)
        installed = {extra for earlier in STAGES[: number + 1] for extra in earlier}
        for command, line in list_commands(installed).items():
            done = subprocess.run(
                [bare_python, "-m", "society", *command.format(n=number).split()],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            said = done.stdout + done.stderr
            assert "bug in society" not in said, (stage, command, said)
            assert "Traceback" not in said, (stage, command, said)
            assert (line or "") in said, (stage, command, said)
            assert ("pip install" in said) == (line is not None), (stage, command, said)


def list_commands(installed: set[str]) -> dict[str, str | None]:
    """Commands, and what each tells to install where only these extras are; `{n}` is a number."""
    api = None if "api" in installed else API
    local = None if "local" in installed else LOCAL
    return {
        "doctor api.toml": api,
        "cost api.toml": api,
        "run api.toml --name a{n}": api,
        "import told.jsonl --name i{n} --config api.toml": api,
        "doctor here.toml": local,
        "run here.toml --set iterations=0 --name h{n}": local,
        "view nothing": None if "view" in installed else extras.install_command("view"),
        **dict.fromkeys(
            ("run scripted.toml --name r{n}", "report r{n}", "export r{n}", "status r{n}")
        ),
    }


def build_wheel(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = folder.glob("*.whl")
    return wheel
