"""The examples of docs/experiments.md, as a user would copy them."""

import re
import shlex
from pathlib import Path

import duckdb
import pytest

from evals.tasks.arithmetic import create
from society.cli import app
from society.config import load as experiments
from society.method.experiment import load_experiment
from society.runs import folder as folders
from society.sweeps import axes
from society.sweeps.axes import SweepOptions, SweepSource
from society.sweeps.definition import load_sweep

DOC = (Path(__file__).parents[2] / "docs/experiments.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", DOC, re.DOTALL)


@pytest.fixture
def written(tmp_path):
    """The path of an experiment file with a block's keys at its top."""
    (tmp_path / "script.jsonl").write_text("")

    def write(block: str) -> Path:
        path = tmp_path / "experiment.toml"
        own = "" if "[task]" in block else '[task]\nname = "arithmetic"\n'
        sizes = "iterations = 3\ntrain.questions = 5\nevaluation.questions = 5\n"
        path.write_text(f'model = "scripted:{tmp_path / "script.jsonl"}"\n{sizes}{block}{own}')
        return path

    return write


def toml(word: str) -> str:
    [block] = [text for language, text in BLOCKS if language == "toml" and word in text]
    return block


def test_several_servers_may_answer(written):
    experiment = load_experiment(str(written(toml("[serving]") + "[task]\nname='arithmetic'\n")))
    servers = experiment.config.serving.list_servers()
    addresses = [f"openai+http://gpu{n}:8000/v1:Qwen/Qwen3-8B" for n in (1, 2)]
    assert [server.address for server in servers] == addresses
    assert servers[0].map_path(Path("/home/me/runs/r/models/a")) == "/mnt/runs/r/models/a"


def test_a_file_may_name_seeds(written):
    [block] = [text for _, text in BLOCKS if text.startswith("seeds") and "[sweep]" not in text]
    sweep = load_sweep(SweepSource(str(written(block))), Path("runs"), "doc")
    assert [member.seed for member in sweep.members] == [0, 1, 2]


def test_a_file_may_be_a_sweep(written):
    sweep = load_sweep(SweepSource(str(written(toml("[sweep]")))), Path("runs"), "doc")
    assert len(sweep.members) == 12
    assert "runs/NAME.w-0.2_agents-3.seed-0/" in DOC
    assert sweep.members[0].short == "w-0.2_agents-3.seed-0"


def test_the_commands_mean_what_they_say(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written("")
    (tmp_path / "variants.jsonl").write_text(
        re.search(r"a JSON object: `(\{.*?\})`", DOC).group(1)  # type: ignore[union-attr]
    )
    [block] = [text for _, text in BLOCKS if "society sweep" in text]
    sizes = []
    for line in block.splitlines():
        program, command, file, *arguments = shlex.split(line)
        assert (program, command) == ("society", "sweep")
        pairs = list(zip(arguments[::2], arguments[1::2], strict=True))
        given = dict(pairs)
        grid = [value for key, value in pairs if key == "--grid"]
        listed = Path(given["--list"]) if "--list" in given else None
        options = SweepOptions(grid, listed, given.get("--seeds"))
        sizes.append(len(load_sweep(SweepSource(file, (), options), Path("runs"), "doc").members))
    assert sizes == [12, 1]
    for example in re.findall(r"`(?:--grid )?'?([a-z_.]+=[^`]*?,[^`]*?)'?`", DOC):
        assert (
            len(next(iter(axes.read_axes({}, SweepOptions([example]), "doc").grid.values()))) == 2
        )


def test_the_curriculum_climbs(written):
    questions = load_experiment(str(written(toml("curriculum")))).questions
    assert [questions.task_of(k).options.high for k in (1, 2, 3)] == [4, 7, 10]
    assert [each.label for each in questions.evaluation_sets] == [
        "arithmetic",
        "arithmetic@1",
        "arithmetic@2",
    ]
    assert questions.task == create({"high": 10})


def test_several_runs_are_asked_at_once(written, tmp_path):
    config = experiments.load_config(str(written("")))
    for seed in (0, 1):
        folders.start_run(
            folders.locate_run(tmp_path / "runs", f"NAME.seed-{seed}"), config
        ).close()
    [sql] = [text for language, text in BLOCKS if language == "sql"]
    with duckdb.connect() as connection:
        found = connection.execute(sql.replace("'runs/", f"'{tmp_path}/runs/"))
        assert [column[0] for column in found.description][:2] == ["seed", "iteration"]


def test_every_packaged_experiment_is_described():
    section = DOC.split("## Packaged experiments")[1].split("\n## ")[0]
    described = re.findall(r"^\| `([\w-]+)` \|.*\|.*\|$", section, re.MULTILINE)
    assert sorted(described) == list(experiments.list_packaged())


def test_every_option_is_described():
    [command] = [c for c in app.registered_commands if c.callback.__name__ == "sweep"]
    parameters = set(command.callback.__annotations__) - {"config", "return"}
    named = {"listed": "list", "settings": "set"}
    for parameter in parameters:
        assert f"`--{named.get(parameter, parameter).replace('_', '-')}" in DOC
