"""What is installed is complete: built as a wheel, unpacked elsewhere, used from there."""

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
        "society/configs/demo.toml",
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
        unpacked, tmp_path, "from society import config; print(config.load('demo').society.agents)"
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_a_sibling_from_elsewhere_is_named_with_the_remedy(unpacked, tmp_path):
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "__init__.py").write_text("")
    done = run(unpacked, tmp_path, f"sys.path.insert(0, {str(tmp_path)!r}); import society")
    assert done.returncode == 1
    assert "package 'evals' comes from" in done.stderr
    assert "environment of its own" in done.stderr
