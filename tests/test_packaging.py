"""What is installed is complete: built as a wheel, unpacked elsewhere, used from there."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"society", "providers", "finetune", "evals", "store"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """A folder with nothing but the wheel's contents."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = folder.glob("multiagent_finetuning-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(unpacked: Path, cwd: Path, code: str) -> subprocess.CompletedProcess[str]:
    # -S keeps the editable installation of this checkout out; third-party packages come back in.
    third_party = Path(pytest.__file__).parents[1]
    path = [str(unpacked), str(third_party)]
    return subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_five_packages_and_nothing_else_are_installed(unpacked):
    found = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert found == PACKAGES


@pytest.mark.parametrize(
    "part",
    [
        "society/config/demo.toml",
        "society/prompts/summarize.txt",
        "providers/embedded/model/model.safetensors",
        "providers/embedded/model/tokenizer.json",
        "providers/embedded/wording.json",
        "store/migrations/001_initial.sql",
        "store/views/critic_examples.sql",
    ],
)
def test_the_data_files_are_there(unpacked, part):
    assert (unpacked / part).is_file()


def test_the_demo_config_is_valid_where_it_is_installed(unpacked, tmp_path):
    done = run(
        unpacked,
        tmp_path,
        "from society.config.load import load_config; print(load_config('demo').society.agents)",
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


# What a user may have beside a notebook, under the name of each sibling.
SHADOWS = {
    "package": ("{name}/__init__.py", "mine = True"),
    "module": ("{name}.py", "mine = True"),
    "data": ("{name}/results.csv", "1,2"),
    "loose": ("{name}/tools.py", "mine = True"),
}
USE = (
    "import society\n"
    "from store.ledger import Store\n"
    "from finetune.datasets import derive_datasets\n"
    "from evals.judge.pool import Judge, PairLimits\n"
    "from providers.registry import schemes\n"
    "from society.config.load import load_config\n"
    "print(load_config('demo').society.agents)\n"
)


@pytest.fixture
def shadowed(tmp_path):
    """A folder that has one of `SHADOWS` for every sibling."""

    def make(kind: str) -> Path:
        file, text = SHADOWS[kind]
        for name in sorted(PACKAGES - {"society"}):
            path = tmp_path / file.format(name=name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize("kind", SHADOWS)
def test_a_users_own_folders_of_such_names_do_no_harm(unpacked, shadowed, kind):
    folder = shadowed(kind)
    done = run(unpacked, folder, f"sys.path.insert(0, '')\n{USE}")
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    warned = [line for line in done.stderr.splitlines() if "UserWarning" in line]
    assert len(warned) == (4 if kind in ("package", "module") else 0), done.stderr
    for name, line in zip(("providers", "store", "finetune", "evals"), warned, strict=False):
        assert f"its own package {name!r}" in line
        assert str(folder / name) in line


@pytest.mark.parametrize("way", ["script", "notebook", "module"])
def test_neither_do_they_however_python_was_started(unpacked, shadowed, way):
    folder = shadowed("package")
    code = {
        "script": f"import runpy; runpy.run_path({str(folder / 'mine.py')!r}, run_name='__main__')",
        "notebook": f"exec(compile({USE!r}, '<cell>', 'exec'), {{'__name__': '__main__'}})",
        "module": "import runpy; sys.argv = ['-m']; runpy.run_module('mine', run_name='__main__')",
    }[way]
    (folder / "mine.py").write_text(USE)
    done = run(unpacked, folder, f"sys.path.insert(0, {str(folder)!r})\n{code}")
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_processes_that_are_started_find_the_right_packages_too(unpacked, shadowed):
    folder = shadowed("package")
    code = (
        "import society\n"
        "from evals.judge.pool import Judge\n"
        "judge = Judge(workers=1)\n"
        "print(judge.same('x+1', '1+x'))\n"
        "judge.close()\n"
    )
    done = run(unpacked, folder, f"sys.path.insert(0, {str(folder)!r})\n{code}")
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_the_command_says_nothing_of_folders_that_it_does_not_need(unpacked, shadowed):
    folder = shadowed("package")
    third_party = Path(pytest.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "society", "cost", "demo", "--format", "csv"],
        cwd=folder,
        env={"PYTHONPATH": f"{unpacked}:{third_party}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("stage,")


def test_a_package_that_is_in_use_is_named_with_the_remedy(unpacked, shadowed):
    folder = shadowed("package")
    done = run(unpacked, folder, "sys.path.insert(0, '')\nimport evals\nimport society")
    assert done.returncode == 1
    assert f"package 'evals' comes from {folder / 'evals'}" in done.stderr
    assert f"needs its own from {unpacked / 'evals'}" in done.stderr
    assert "import society first" in done.stderr
    assert "environment of its own" in done.stderr


def test_a_folder_that_was_imported_and_holds_nothing_is_not_in_use(unpacked, shadowed):
    code = f"sys.path.insert(0, '')\nsys.path.remove({str(unpacked)!r})\nimport evals\n"
    code += f"sys.path.append({str(unpacked)!r})\n{USE}"
    done = run(unpacked, shadowed("data"), code)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_a_sibling_that_is_missing_is_named(unpacked, tmp_path):
    shutil.copytree(unpacked / "society", tmp_path / "society")
    done = run(tmp_path, tmp_path, "import society")
    assert done.returncode == 1
    assert "package 'providers' is missing" in done.stderr
