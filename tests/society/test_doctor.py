"""What the doctor sees before a run, and that looking costs nothing."""

import dataclasses
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from providers.embedded import MODEL_DIR
from society.checks import doctor
from society.cli import app
from society.config import load as experiments
from society.method.experiment import resolve
from society.runs import folder as folders
from store.ledger import Store
from store.records import Job
from tests.providers.adapter_server import AdapterServer
from tests.providers.conftest import save_model
from tests.providers.job_server import serving
from tests.providers.sparse_models import save_sparse

BASE = "gpt-4o-mini"
SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def society(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def remote(url: str, *more: str, model: str = BASE) -> list[str]:
    """Options that put a remote model into the packaged experiment."""
    usual = ["sampling.temperature=1", "finetune.learning_rate=1e-4"]
    overrides = [f'model="openai+{url}:{model}"', *usual, *more]
    return [part for override in overrides for part in ("--set", override)]


def test_a_good_experiment_has_no_errors_and_nothing_is_made():
    status, said = society("doctor", "demo")
    assert status == 0, said
    assert "ok       the experiment: 3 agents, rounds: 2, iterations: 3" in said
    assert "ok       no evaluation question is trained on" in said
    assert "ok       embedded: the model's files are there" in said
    assert "\x1b" not in said
    assert list(Path().iterdir()) == []


def test_nothing_heavy_is_loaded_for_a_local_model():
    code = (
        "import sys; from society import cli\n"
        "sys.argv = ['society', 'doctor', 'demo']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'openai'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_wrong_file_is_one_error():
    Path("wrong.toml").write_text('model = "embedded:"\nagents = 3\ntask.name = "arithmetic"\n')
    status, said = society("doctor", "wrong.toml")
    assert status == 2
    assert said.startswith("error    wrong.toml has 1 problem(s):")
    assert "agents: unknown key" in said


@pytest.mark.parametrize("more", [(), ("--seeds", "0,1")])
def test_a_model_is_looked_at_though_the_questions_cannot_be_had(more):
    path = Path("own.toml")
    path.write_text(
        """
        model = "openai:gpt-4o-mini"
        finetune.learning_rate = 1e-4
        [task]
        name = "file"
        path = "nowhere.jsonl"
        answer = "number"
        """
    )
    status, said = society("doctor", path, *more)
    assert status == 2
    assert "nowhere.jsonl does not exist" in said
    assert "the environment variable OPENAI_API_KEY is not set" in said
    assert "disk:" in said


def test_questions_that_overlap_are_an_error_unless_allowed():
    asked = [f"What is {n} plus {n}, and how did you find it?" for n in range(6)]
    for name, texts in (("a", asked), ("b", [text.lower() for text in asked[3:]])):
        lines = [json.dumps({"question": text}) for text in texts]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    Path("own.toml").write_text(
        """
        model = "embedded:"
        train.questions = 6
        evaluation.questions = 3
        [task]
        name = "file"
        train_path = "a.jsonl"
        eval_path = "b.jsonl"
        answer = "number"
        """
    )
    status, said = society("doctor", "own.toml")
    assert status == 2, said
    assert "are the same as training questions" in said
    status, said = society("doctor", "own.toml", "--allow-overlap")
    assert status == 0, said
    assert "are allowed to overlap" in said


def test_a_missing_key_is_named_and_stops_a_run_before_it_is_made():
    options = ("demo", "--set", "model=openai:gpt-4o-mini", "--set", "finetune.learning_rate=1e-4")
    status, said = society("doctor", *options)
    assert status == 2
    assert "the environment variable OPENAI_API_KEY is not set" in said
    status, said = society("run", *options)
    assert status == 2
    assert "nothing was started, 1 problem(s):" in said
    assert "OPENAI_API_KEY" in said
    assert not Path("runs").exists()


def test_an_unknown_model_is_named_with_those_there_are():
    with serving(base=BASE) as server:
        status, said = society("doctor", "demo", *remote(server.url, model="gpt-5-tiny"))
    assert status == 2
    assert "the server has no model gpt-5-tiny; among those it has: gpt-4o-mini" in said


def test_looking_at_a_server_spends_nothing():
    with serving(base=BASE) as server:
        status, said = society("doctor", "demo", *remote(server.url))
        asked = {(entry["method"], entry["path"]) for entry in server.log()}
    assert status == 0, said
    assert asked == {("GET", "/models"), ("GET", f"/models/{BASE}"), ("GET", "/fine_tuning/jobs")}


def test_a_recipe_that_the_vendor_does_not_take_is_refused_before_anything_is_spent():
    with serving(base=BASE) as server:
        options = remote(server.url, "finetune.learning_rate=2e-3", "finetune.lora_rank=4")
        status, said = society("doctor", "demo", *options)
        assert status == 2
        assert said.count("cannot train like that") == 2
        status, _ = society("doctor", "demo", *options, "--set", "iterations=0")
        assert status == 0


@pytest.mark.parametrize(
    ("days", "level", "status"), [(-3, "error", 2), (0.1, "error", 2), (20, "warning", 0)]
)
def test_a_model_that_is_to_be_shut_down(days, level, status):
    ends = datetime.now(UTC) + timedelta(days=days)
    facts = {"shutdown_date": f"{ends:%Y-%m-%d}" if days < 0 else int(ends.timestamp())}
    with AdapterServer(BASE, facts=facts) as server:
        options = remote(server.url, "iterations=0", "evaluation.questions=3000")
        ended, said = society("doctor", "demo", *options)
    assert ended == status, said
    [line] = [line for line in said.splitlines() if "answering of" in line]
    assert line.startswith(level)


def test_a_server_that_does_not_fine_tune_is_an_error_only_where_that_is_wanted():
    with AdapterServer(BASE) as server:
        status, said = society("doctor", "demo", *remote(server.url))
        assert status == 2
        assert "fine-tuning" in said
        status, said = society("doctor", "demo", *remote(server.url, "iterations=0"))
        assert status == 0, said


def test_too_few_questions_for_a_job_are_an_error_and_hardly_enough_a_warning():
    with serving(base=BASE) as server:
        status, said = society("doctor", "demo", *remote(server.url, "train.questions=8"))
        assert status == 2
        assert "a job needs at least 10 examples, and no dataset can have that many" in said
        assert "→ set train.questions = 20 or more" in said
        status, said = society("doctor", "demo", *remote(server.url, "train.questions=12"))
        assert status == 0
        assert "warning  openai+http://" in said
        assert "a dataset can have at most 12" in said


@pytest.mark.parametrize(
    ("runtime", "base", "problem"),
    [
        (True, "org/base", None),
        (False, "org/base", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve org/base"),
        (True, "org/other", "org/other"),
    ],
)
def test_a_server_that_is_to_take_adapters(runtime, base, problem):
    with AdapterServer(base, runtime=runtime) as server:
        address = f"openai+{server.url}:org/base"
        options = (f'serving.address="{address}"', "finetune.lora_rank=8")
        status, said = society("doctor", "demo", "--set", options[0], "--set", options[1])
    assert (status, server.loads, server.loaded) == (0 if problem is None else 2, [], {})
    assert list(Path().iterdir()) == []
    if problem is None:
        assert "loads adapters while it runs (0 loaded now)" in said
        assert "it is vllm 0.32.0 with org/base, 4096 tokens of context, fingerprint vllm-" in said
        assert "an untrained adapter of rank 8 was loaded, answered and was unloaded" in said
        assert f"adapters will be read from {Path.cwd() / 'runs/demo/models'}" in said
    else:
        assert problem in said


@pytest.mark.parametrize(
    ("changes", "tried", "problem"),
    [
        ({"lora": False}, 0, "LoRA is not enabled. Use --enable-lora to enable LoRA."),
        (
            {"max_rank": 16},
            0,
            "LoRA rank 24 is greater than max_lora_rank 16.; start the server with "
            "--max-lora-rank 32, or set finetune.lora_rank = 16 or less",
        ),
        ({"disk": ("/", "/nowhere/")}, 0, "let it see the run's folder, and set serving.path_map"),
        ({"trouble": {"load_lora_adapter": ["", "lost"]}}, 1, None),
    ],
)
def test_an_adapter_of_the_runs_shape_is_tried_and_never_stays(changes, tried, problem):
    with AdapterServer("org/base", **changes) as server:
        options = (f'serving.address="{server.address}"', "finetune.lora_rank=24")
        status, said = society("doctor", "demo", "--set", options[0], "--set", options[1])
    assert status == (0 if problem is None else 2), said
    assert (len(server.trials), server.loads, server.loaded) == (tried, [], {})
    assert problem is None or problem in " ".join(said.split())
    # Neither the adapter nor the folders that were made for it.
    assert list(Path().iterdir()) == []


def test_a_run_is_refused_before_it_is_made_if_a_server_does_not_take_its_adapters():
    with AdapterServer("org/base", max_rank=8) as server:
        options = (f'serving.address="{server.address}"', "finetune.lora_rank=16")
        status, said = society("run", "demo", "--set", options[0], "--set", options[1])
        assert status == 2, said
        assert "--max-lora-rank 16" in said
        status, said = society("doctor", "demo", "--skip", "adapters", "--set", options[0])
        assert status == 0, said
    assert (server.trials, server.chats, list(Path().iterdir())) == ([], [], [])


def test_each_of_several_servers_is_checked_and_one_that_is_away_is_a_warning():
    with AdapterServer("org/base") as first, AdapterServer("org/base") as second:
        addresses = [first.address, second.address]
        status, said = society("doctor", "demo", "--set", f"serving.addresses={addresses}")
        assert status == 0, said
        for address in addresses:
            assert f"{address}: adapters will be read from" in said
        second.runtime = False
        status, said = society("doctor", "demo", "--set", f"serving.addresses={addresses}")
        assert status == 2
        assert f"{second.address}: {second.url} does not load adapters" in said
        second.kill()
        status, said = society("doctor", "demo", "--set", f"serving.addresses={addresses}")
        assert status == 0, said
        assert f"warning  {second.address}: " in said
        assert "the other servers answer, and it gets its calls once it is there" in said
        first.kill()
    status, said = society("doctor", "demo", "--set", f"serving.addresses={addresses}")
    assert (status, said.count("error ")) == (2, 2)


def test_serving_names_one_server_or_several():
    both = ['serving.address="openai+http://a/v1:m"', 'serving.addresses=["openai+http://a/v1:m"]']
    for overrides, reason in (
        (both, "more than one of them is set"),
        (["serving.path_map={}"], "none of them is set"),
    ):
        options = [part for override in overrides for part in ("--set", override)]
        status, said = society("doctor", "demo", *options)
        assert status == 2
        assert reason in said


def test_an_unreachable_server_is_one_error():
    with AdapterServer(BASE) as server:
        options = remote(server.url)
    status, said = society("doctor", "demo", *options)
    assert status == 2
    assert said.count("error ") == 1
    assert "Cannot connect" in said


def copy_with_large_weights(tmp_path):
    """The built-in model with one layer more, whose 4 * 10^12 numbers are a hole in its file."""
    folder = shutil.copytree(MODEL_DIR, tmp_path / "large")
    shape = [2_000_000, 2_000_000]
    save_sparse(folder / "model.safetensors", {"model.layers.9.weight": ("BF16", shape)})
    return folder


def test_a_model_larger_than_the_memory_is_a_warning(tmp_path):
    folder = copy_with_large_weights(tmp_path)
    settings = 'provider={device = "cpu", dtype = "bfloat16"}'
    options = ("--set", f'model="local:{folder}"', "--set", settings)
    status, said = society("doctor", "demo", *options)
    assert status == 0
    assert "warning  local:" in said
    assert "weights 8000." in said
    assert "of answering and" in said
    assert "on this CPU, within a factor of three" in said
    assert "for a first look lower train.questions" in said
    assert "take a smaller model" in said


def test_a_disk_that_is_too_small_for_what_is_trained_is_an_error(tmp_path):
    folder = copy_with_large_weights(tmp_path)
    options = ("--set", f'model="local:{folder}"', "--set", 'finetune.method="full"')
    status, said = society("doctor", "demo", *options)
    assert status == 2
    assert "error    disk:" in said


def test_a_finished_run_is_let_through_although_its_server_is_gone(experiment):
    status, said = society("run", experiment)
    assert status == 0, said
    config = experiments.load_config(str(experiment))
    folder = folders.locate_run(Path("runs"), "scripted")
    assert doctor.read_past_work(config, folder) == doctor.PastWork(tuned=2, finished=True)
    longer = config.model_copy(update={"iterations": 3})
    assert doctor.read_past_work(longer, folder) == doctor.PastWork(tuned=2, finished=False)


def test_a_run_whose_tuning_is_done_does_not_ask_for_tuning(tmp_path):
    with AdapterServer(BASE) as server:
        config = experiments.load_config("demo", remote(server.url, "iterations=1")[1::2])
        folder = folders.locate_run(tmp_path / "runs", "tuned")
        with folders.start_run(folder, config) as store:
            write_tuned(store, config.society.agents)
        findings = doctor.preflight_config(resolve(config), folder)
        assert [found for found in findings if found.level == "error"] == []
        fresh = doctor.preflight_config(
            resolve(config), folders.locate_run(tmp_path / "runs", "fresh")
        )
        assert any(found.level == "error" for found in fresh)


def write_tuned(store: Store, agents: int) -> None:
    for agent in range(1, agents + 1):
        job = Job("", 1, "multiagent", agent, "generator", "dataset", "digest", "succeeded")
        store.write(dataclasses.replace(job, job_id=f"g{agent}"))
        store.write(dataclasses.replace(job, job_id=f"c{agent}", role="critic", status="skipped"))


def test_the_end_of_a_run_moves_with_what_is_left_of_it():
    config = experiments.load_config("demo")
    whole = doctor.estimate_end(resolve(config), doctor.PastWork(), SOME_DAY)
    part = doctor.estimate_end(resolve(config), doctor.PastWork(tuned=2), SOME_DAY)
    assert SOME_DAY < part < whole < SOME_DAY + timedelta(days=2)


def test_deep_loads_a_local_model_and_compares_its_answers(tmp_path):
    folder = save_model(tmp_path / "model")
    options = ("--set", f'model="local:{folder}"', "--set", 'provider={device = "cpu"}')
    status, said = society("doctor", "demo", *options)
    assert status == 0, said
    assert f"local:{folder}: was not tried: `society doctor --deep` loads it" in said
    status, said = society("doctor", "demo", "--deep", *options)
    assert status == 0, said
    assert "answers as transformers does, by the fast decoder" in said
    assert "answers with adapters, by the fast decoder" in said
    status, said = society("doctor", "demo", *options)
    assert "was tried before (cpu/torch." in said
    status, said = society("doctor", "demo", "--deep", "--seeds", "0,1", *options)
    assert status == 2
    assert "--deep tries the models of one experiment" in said
