"""What a sweep is made of, and what is refused before anything runs."""

import json
from pathlib import Path

import pytest

from society.config.load import ConfigError
from society.runs import sweep_record
from society.sweeps import axes, definition
from society.sweeps.axes import SweepOptions, SweepSource

FILE = """
model = "scripted:{script}"
iterations = 1
task.name = "arithmetic"
train.questions = 10
evaluation.questions = 10
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "script.jsonl").write_text("")
    path = tmp_path / "small.toml"
    path.write_text(FILE.format(script=tmp_path / "script.jsonl"))
    return path


@pytest.fixture
def load(experiment: Path, tmp_path: Path):
    """The sweep of the experiment under the given grid, list and seeds."""

    def make(*grid: str, listed: list[object] | None = None, seeds: str | None = None, more=""):
        file = None
        if listed is not None:
            file = tmp_path / "list.jsonl"
            file.write_text("".join(f"{json.dumps(line)}\n" for line in listed))
        # Keys at the top have to come before the file's sections.
        experiment.write_text(more + FILE.format(script=tmp_path / "script.jsonl"))
        source = SweepSource(str(experiment), (), SweepOptions(grid, file, seeds))
        return definition.load_sweep(source, tmp_path / "runs", "small")

    return make


def names(sweep: definition.Sweep) -> list[str]:
    return [member.folder.name.removeprefix("small.") for member in sweep.members]


def test_every_combination_with_every_seed(load):
    sweep = load("datasets.w=0.2,0.5", "society.agents=3,5", seeds="0,7")
    assert names(sweep) == [
        f"w-{w}_agents-{agents}.seed-{seed}"
        for w in (0.2, 0.5)
        for agents in (3, 5)
        for seed in (0, 7)
    ]
    config = sweep.members[-1].config
    assert (config.datasets.w, config.society.agents, config.seed) == (0.5, 5, 7)
    assert [m.short for m in sweep.representatives()] == [
        f"w-{w}_agents-{agents}.seed-0" for w in (0.2, 0.5) for agents in (3, 5)
    ]


def test_the_seed_changes_nothing_else(load):
    one, other = (m.config.model_dump() for m in load(seeds="3,4").members)
    assert (one.pop("seed"), other.pop("seed")) == (3, 4)
    assert one == other


def test_the_file_may_say_it_and_the_command_line_comes_first(load):
    more = "seeds = [1, 2]\nsweep = { datasets.w = [0.2, 0.5], society.agents = [2] }\n"
    assert names(load(more=more)) == [
        f"w-{w}_agents-2.seed-{seed}" for w in (0.2, 0.5) for seed in (1, 2)
    ]
    assert names(load("datasets.w=0.9", seeds="8", more=more)) == ["w-0.9_agents-2.seed-8"]


@pytest.mark.parametrize(
    ("override", "grid", "more", "says"),
    [
        ("seed=5", (), "seeds = [0, 1]\n", r"seeds 0, 1; use --set 'seeds=\[5\]'"),
        ("seed=5", ("society.agents=2,3",), "seeds = [4]\n", "has no effect: the runs have"),
        (
            "society.agents=4",
            ("society.agents=2,3",),
            "",
            "the sweep sets society.agents in",
        ),
        (
            "datasets.w=0.1",
            (),
            "sweep = { datasets.w = [0.2, 0.5] }\n",
            "the sweep sets datasets.w",
        ),
        (
            'task.name="math"',
            ('task={name = "arithmetic"}',),
            "",
            "the sweep sets task in every run",
        ),
    ],
)
def test_a_setting_that_the_sweep_overrides_is_refused(
    experiment, tmp_path, override, grid, more, says
):
    experiment.write_text(more + FILE.format(script=tmp_path / "script.jsonl"))
    source = SweepSource(str(experiment), (override,), SweepOptions(grid))
    with pytest.raises(ConfigError, match=says):
        definition.load_sweep(source, tmp_path / "runs", "small")


def test_settings_that_count_stay_settings(experiment, tmp_path):
    for overrides, grid, seeds, there in (
        (("seed=5",), ("society.agents=2,3",), None, [5, 5]),
        (("seeds=[5]",), (), None, [5]),
        (("society.rounds=3",), ("society.agents=2,3",), "1,2", [1, 2, 1, 2]),
    ):
        source = SweepSource(str(experiment), overrides, SweepOptions(grid, None, seeds))
        sweep = definition.load_sweep(source, tmp_path / "runs", "small")
        assert [member.seed for member in sweep.members] == there


def test_without_seeds_there_is_the_files_own(load):
    assert names(load("society.agents=2,3", more="seed = 5\n")) == [
        "agents-2.seed-5",
        "agents-3.seed-5",
    ]


def test_a_list_names_its_points_or_they_are_named_by_what_they_set(load):
    sweep = load(
        listed=[
            {"name": "many", "society": {"agents": 7}, "datasets.w": 0.1},
            {"society.agents": 4},
            {},
        ]
    )
    assert names(sweep) == ["many.seed-0", "agents-4.seed-0", "as-is.seed-0"]
    assert sweep.members[0].config.society.agents == 7
    assert sweep.members[0].config.datasets.w == 0.1
    assert names(load("datasets.w=0.2", listed=[{"society.agents": 4}])) == [
        "agents-4_w-0.2.seed-0"
    ]


def test_values_are_toml_or_bare_words(load):
    sweep = load(
        "finetune.init=continue,fresh", 'society.others="quoted"', "train.fresh=true,false"
    )
    assert [m.config.finetune.init for m in sweep.members] == 2 * ["continue"] + 2 * ["fresh"]
    assert [m.config.train.fresh for m in sweep.members] == [True, False, True, False]
    levels = load("evaluation.decodings=['sampled'],['sampled', 'greedy']")
    assert [m.config.evaluation.decodings for m in levels.members] == [
        ("sampled",),
        ("sampled", "greedy"),
    ]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({("datasets", "w"): 0.5}, "w-0.5"),
        ({("train", "fresh"): True}, "fresh-true"),
        ({("task", "low"): 1, ("other", "low"): 2}, "task-low-1_other-low-2"),
        ({("model",): "local:a/b"}, "model-local-a-b-"),
        ({("evaluation", "decodings"): ["greedy"]}, "decodings-greedy-"),
        ({("task", "train_path"): "x" * 60, ("task", "eval_path"): "y" * 60}, "p-"),
    ],
)
def test_names_say_what_is_set_and_stay_short(settings, name):
    found = axes.name_point(settings)
    assert found.startswith(name)
    assert len(found) <= 40
    assert not axes.is_unsafe(found)
    assert found == axes.name_point(settings)


def test_values_that_look_alike_have_names_of_their_own():
    found = {axes.name_point({("model",): model}) for model in ("local:a/b", "local:a-b", "a:b")}
    assert len(found) == 3


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["datasets.w="], "the grid has no value for datasets.w; write datasets.w=v1,v2"),
        (["datasets.w"], "is not of the form KEY=v1,v2"),
        (["=1"], "is not of the form KEY=v1,v2"),
        (["datasets.w=0.2,0.2"], "the grid has datasets.w = 0.2 twice"),
        (["datasets.w=0.2", "datasets.w=0.3"], "names datasets.w twice"),
        (["seed=1,2"], "seed cannot be in a grid: set seeds with --seeds"),
        (["datasets.wide=1"], "with datasets.wide = 1 has 1 problem(s):\n  datasets.wide: unknown"),
        (["datasets.w=0.2,7"], "with datasets.w = 7 has 1 problem"),
        (["model.name=a"], "'model' is a value, not a section"),
        (["society.agents=3,3.0"], "society.agents"),
        (["train.questions=" + ",".join(map(str, range(1, 1002)))], "more than 1000 runs"),
    ],
)
def test_a_wrong_grid_is_named(load, grid, message):
    with pytest.raises(ConfigError) as refused:
        load(*grid)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("", "--seeds '' is not a list of numbers such as 0,1,2"),
        ("0,one", "is not a list of numbers"),
        ("1,1", "seeds = [1, 1] has a seed twice"),
        ("-1", "is not a list of whole numbers"),
    ],
)
def test_wrong_seeds_are_named(load, seeds, message):
    with pytest.raises(ConfigError) as refused:
        load(seeds=seeds)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("seeds = []\n", "seeds is empty; name at least one"),
        ("seeds = 3\n", "seeds = 3 is not a list of whole numbers"),
        ("seeds = [true]\n", "seeds = [True] is not a list of whole numbers"),
        ("sweep = 3\n", "[sweep] must be a section of KEY = [values], not 3"),
        ("sweep = { datasets.w = 0.2 }\n", "sweep.datasets.w = 0.2 is not a list"),
    ],
)
def test_wrong_keys_of_the_file_are_named(load, more, message):
    with pytest.raises(ConfigError) as refused:
        load(more=more)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([], "is empty; write one JSON object of settings per line"),
        ([[1]], "line 1: not a JSON object of settings"),
        ([{"seed": 2}], "line 1: seed: set seeds with --seeds"),
        ([{"name": "a/b"}], "name 'a/b' is not usable"),
        ([{"name": "a"}, {"name": "a", "society.agents": 5}], "line 2: 'a' appears twice"),
        ([{"society.agents": 3}, {}], "are the same experiment; remove one of them"),
    ],
)
def test_a_wrong_list_is_named(load, listed, message):
    with pytest.raises(ConfigError) as refused:
        load(listed=listed)
    assert message in str(refused.value)


def test_a_list_that_is_no_json_or_not_there_is_named(experiment, tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{"a"\n')
    for file, message in (
        ("broken.jsonl", "line 2: broken JSON"),
        ("none.jsonl", "cannot be read"),
    ):
        source = SweepSource(str(experiment), (), SweepOptions(listed=tmp_path / file))
        with pytest.raises(ConfigError, match=message):
            definition.load_sweep(source, tmp_path, "small")


def test_a_key_in_grid_and_list_is_named(load):
    with pytest.raises(ConfigError, match=r"society\.agents is in the grid and in the list"):
        load("society.agents=2", listed=[{"society.agents": 4}])


def test_a_name_that_gets_too_long_is_refused(load, experiment, tmp_path):
    source = SweepSource(str(experiment), (), SweepOptions(["society.agents=2"]))
    with pytest.raises(ConfigError, match="is not usable"):
        definition.load_sweep(source, tmp_path, "x" * 60)


def test_the_record_keeps_what_an_earlier_start_has_asked_for(load, tmp_path):
    first, second = load(seeds="0,1"), load(seeds="1,2")
    definition.write_record(first.folder, definition.record_sweep(first, "small"))
    known = definition.merge_records(
        sweep_record.read_record(first.folder), definition.record_sweep(second, "small")
    )
    assert [member.seed for member in known.members] == [0, 1, 2]
    assert known.folders(tmp_path)[2].path == tmp_path / "small.seed-2"


def test_a_name_of_a_list_that_means_something_else_now_is_refused(load):
    first = definition.record_sweep(load(listed=[{"name": "a", "society.agents": 4}]), "small")
    second = definition.record_sweep(load(listed=[{"name": "a", "society.agents": 5}]), "small")
    with pytest.raises(ConfigError, match=r"small\.a\.seed-0 is in the sweep with the settings"):
        definition.merge_records(first, second)


def test_a_record_that_cannot_be_read_is_named(load):
    folder = load(seeds="0").folder
    folder.path.mkdir(parents=True)
    folder.sweep.write_text("{}")
    with pytest.raises(ConfigError, match="remove it and start the sweep again"):
        sweep_record.read_record(folder)


def test_what_is_no_sweep_is_none(experiment, tmp_path):
    assert not SweepSource(str(experiment)).several()
    assert SweepSource(str(experiment), ("seeds=[1]",)).several()
    assert SweepSource(str(experiment), ("sweep.datasets.w=[0.1]",)).several()
    assert axes.read_axes({}, SweepOptions(), "here").seeds == (0,)
