"""Paths in an experiment file are relative to the file, of every kind of path."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from providers.embedded import MODEL_DIR
from society.cli import app
from society.config.load import ConfigError, load_config, read_table
from society.method.experiment import load_experiment

HEAD = 'model = "embedded:"\ntask.name = "arithmetic"\n'
ROWS = "".join(f'{{"q": "How much is {n} plus 4?", "a": {n + 4}}}\n' for n in range(8))
OWN = """
from evals.tasks.arithmetic import create


def make(options):
    return create({})
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The folder `experiments`, below the working directory."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "experiments"
    made.mkdir()
    return made


def load(folder: Path, text: str, *overrides: str):
    (folder / "one.toml").write_text(text)
    return load_config("experiments/one.toml", overrides)


def test_data_files(folder):
    (folder / "data").mkdir()
    for name in ("train", "eval", "other"):
        (folder / f"data/{name}.jsonl").write_text(ROWS.replace("plus", f"plus {name}"))
    text = """
        model = "embedded:"
        iterations = 2
        train.questions = 4
        evaluation.questions = 4
        [task]
        name = "file"
        question = "q"
        gold = "a"
        answer = "number"
        train_path = "data/train.jsonl"
        eval_path = "data/eval.jsonl"
        curriculum = [{train_path = "data/train.jsonl"}, {train_path = "data/other.jsonl"}]
        [[zero_shot]]
        name = "file"
        label = "more"
        path = "data/other.jsonl"
        question = "q"
        gold = "a"
        answer = "number"
        questions = 2
    """
    config = load(folder, text)
    assert config.task.options["train_path"] == "experiments/data/train.jsonl"
    assert config.task.curriculum[1]["train_path"] == "experiments/data/other.jsonl"
    assert config.zero_shot[0].options["path"] == "experiments/data/other.jsonl"
    # The questions are read, so that each of the paths has led to its file.
    questions = load_experiment("experiments/one.toml").questions
    assert "plus train" in questions.training_questions(1)[0].text
    assert "plus other" in questions.training_questions(2)[0].text


def test_selections_and_prompts(folder):
    query = "SELECT * FROM generation_examples"
    (folder / "mine.sql").write_text(query)
    (folder / "task.txt").write_text("{question} {answer_form}")
    text = """
        datasets.critic = "mine.sql"
        prompts.task = "task.txt"
        [[arms]]
        name = "own"
        like = "multiagent"
        datasets.generation = "mine.sql"
    """
    config = load(folder, HEAD + text)
    assert config.datasets.critic.text == query
    assert config.for_arm("own").datasets.generation.text == query
    assert config.prompts.task.text == "{question} {answer_form}"
    # What a run stores of them is as if the file lay in the working directory.
    for name in ("mine.sql", "task.txt", "one.toml"):
        Path(name).write_text((folder / name).read_text())
    assert load_config("one.toml").to_json() == config.to_json()


def test_a_file_that_is_at_neither_place_is_looked_for_beside_the_experiment(folder):
    with pytest.raises(ConfigError, match=r"experiments/mine\.sql"):
        load(folder, f'{HEAD}datasets.critic = "mine.sql"')


def test_model_folders_files_and_runs(folder):
    (folder / "model").symlink_to(MODEL_DIR)
    (folder / "answers.jsonl").write_text("")
    text = """
        model = "local:./model"
        task.name = "arithmetic"
        society.models = ["local:model", "scripted:answers.jsonl", "replay:old-run"]
        [providers."local:./model"]
        offload_folder = "spilled"
        device_map = "auto"
    """
    (folder / "old-run").mkdir()
    config = load(folder, text)
    assert config.model == "local:experiments/model"
    assert config.society.models == (
        *("local:experiments/model", "scripted:experiments/answers.jsonl"),
        "replay:experiments/old-run",
    )
    assert config.settings_of(config.model)["offload_folder"] == "experiments/spilled"


@pytest.mark.parametrize(
    "address", ["local:Qwen/Qwen3-0.6B", "openai:gpt-4.1", "embedded:", "tinker:Qwen/Qwen3-8B"]
)
def test_names_of_models_stay_as_they_are(folder, address):
    (folder / "gpt-4.1").mkdir()
    config = load(folder, f'model = "{address}"\ntask.name = "arithmetic"\ndiversity.encoder="e/m"')
    assert config.model == address
    assert config.diversity.encoder == "e/m"


def test_tokenizers_and_encoders(folder):
    for name in ("words", "encoder"):
        (folder / name).mkdir()
    text = """
        model = "tinker+http://127.0.0.1:9:m"
        task.name = "arithmetic"
        provider.tokenizer = "words"
        diversity.encoder = "./encoder"
        serving = {address = "openai+http://127.0.0.1:9/v1:m", settings = {offload_folder = "x"}}
    """
    config = load(folder, text)
    assert config.provider["tokenizer"] == "experiments/words"
    assert config.diversity.encoder == "experiments/encoder"
    assert config.serving.settings["offload_folder"] == "experiments/x"


def test_modules_with_tasks(folder):
    (folder / "own_sums_beside.py").write_text(OWN)
    text = 'model = "embedded:"\ntask.name = "own_sums_beside:make"\n'
    assert load(folder, text).task.name == "experiments/own_sums_beside:make"
    assert load_experiment("experiments/one.toml").questions.task_of(1).name == "arithmetic"
    # A module that Python finds elsewhere is not taken for the one beside the file.
    (folder / "json.py").write_text(OWN)
    load(folder, text.replace("own_sums_beside", "json"))
    with pytest.raises(ConfigError, match=r"json was imported from .* give it another name"):
        load_experiment("experiments/one.toml")


def test_values_of_sweeps(folder):
    for name in ("a.sql", "b.sql"):
        (folder / name).write_text("SELECT * FROM generation_examples")
    (folder / "one.toml").write_text(f'{HEAD}[sweep]\ndatasets.generation = ["a.sql", "b.sql"]')
    table, _ = read_table("experiments/one.toml")
    assert table["sweep"]["datasets"]["generation"] == ["experiments/a.sql", "experiments/b.sql"]


def test_what_is_named_on_the_command_line_is_relative_to_the_working_directory(folder):
    for place in (folder, Path.cwd()):
        (place / "mine.sql").write_text(f"SELECT * FROM generation_examples -- {place.name}")
    config = load(folder, HEAD, "datasets.critic=mine.sql")
    assert config.datasets.critic.text.endswith(Path.cwd().name)


def test_absolute_paths_stay(folder):
    path = (folder / "q.jsonl").resolve()
    path.write_text(ROWS)
    assert load(folder, f'{HEAD}task.path = "{path}"').task.options["path"] == str(path)


def test_data_that_is_named_from_the_working_directory_is_still_found(folder):
    Path("q.jsonl").write_text(ROWS)
    text = 'model = "embedded:"\ntask = {name = "file", path = "q.jsonl", question = "q"}\n'
    Path("one.toml").write_text(text)
    # So a run that was stored from either file compares as equal.
    assert load(folder, text).to_json() == load_config("one.toml").to_json()


def test_a_run_is_resumed_from_its_file_and_from_its_own_copy(folder):
    pytest.importorskip("torch")
    (folder / "q.jsonl").write_text(ROWS)
    (folder / "one.toml").write_text("""
        model = "embedded:"
        iterations = 0
        stop_if_unread = 0
        society.rounds = 1
        sampling.max_tokens = 4
        evaluation = {questions = 2, decodings = ["greedy"]}
        task = {name = "file", path = "q.jsonl", question = "q", gold = "a", answer = "number"}
    """)
    for file in ("experiments/one.toml", "experiments/one.toml", "runs/one/config.toml"):
        done = CliRunner().invoke(app, ["run", file, "--name", "one"])
        assert done.exit_code == 0, done.output
    # A run whose experiment lay in the working directory is not mistaken for it.
    os.replace("experiments/q.jsonl", "q.jsonl")
    done = CliRunner().invoke(app, ["run", "experiments/one.toml", "--name", "one"])
    assert done.exit_code == 2
    assert "task.path: stored 'experiments/q.jsonl', now 'q.jsonl'" in done.output


def test_an_experiment_that_is_written_into_another_folder_finds_its_data(folder):
    Path("q.jsonl").write_text(ROWS)
    Path("model").symlink_to(MODEL_DIR)
    arguments = ("--task", "q.jsonl", "--model", "local:model", "--yes")
    done = CliRunner().invoke(app, ["init", "experiments/new.toml", *arguments])
    assert "wrote experiments/new.toml" in done.output
    assert 'path = "../q.jsonl"' in (folder / "new.toml").read_text()
    assert 'model = "local:../model"' in (folder / "new.toml").read_text()
    config = load_config("experiments/new.toml")
    assert (config.model, config.task.options["path"]) == ("local:model", "q.jsonl")
    assert json.loads(config.to_json())["task"]["path"] == "q.jsonl"
