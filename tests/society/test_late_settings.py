"""Settings that cannot work are refused before the first call, by every kind of provider."""

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from providers.errors import InvalidSettings
from society.cli import app
from society.config import load as experiments
from society.method.experiment import resolve
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store
from tests.providers.job_account import BASE
from tests.providers.job_server import serving


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_demo(*overrides: str) -> tuple[int, str]:
    options = [part for override in overrides for part in ("--set", override)]
    done = CliRunner().invoke(app, ["run", "demo", *options])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("finetune.learning_rate_multiplier=2", "learning_rate_multiplier = 2.0"),
        ("finetune.lora_dropout=1.0", "finetune.lora_dropout = 1.0 drops everything"),
        ("finetune.learning_rate=inf", "finetune.learning_rate"),
        ("finetune.target_modules=[]", "finetune.target_modules"),
        ('finetune.init_lora_weights="pissa"', "finetune.init_lora_weights"),
        ("finetune.max_grad_norm=nan", "finetune.max_grad_norm"),
        ("sampling.temperature=inf", "sampling.temperature"),
        ("finetune.batch_size=99999999999", "finetune.batch_size"),
        ("seed=99999999999999999999", "seed"),
        ('provider.device="cuda:99"', "provider] device = 'cuda:99' is not there"),
        ('provider.device="mps"', "provider] device = 'mps' is not there"),
    ],
)
def test_a_local_experiment_is_refused_before_it_is_made(override, named):
    status, said = run_demo(override)
    assert (status, named in said) == (2, True), said
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["method=full", "use_rslora=true"], "finetune.use_rslora = True is a setting of LoRA"),
        (["lora_experts=true", "use_dora=true"], "use_dora = True does not go with"),
        (["lora_experts=true", "lora_dropout=0.1"], "lora_dropout = 0.1 does not go with"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides, named):
    status, said = run_demo(*(f"finetune.{override}" for override in overrides))
    assert (status, named in said) == (2, True), said
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["finetune.critic_epochs=51"], "51 epochs; the most is 50"),
        (["finetune.generator_epochs=60"], "60 epochs; the most is 50"),
        (["finetune.lora_rank=8"], "finetune.lora_rank = 8"),
        (["finetune.use_dora=true"], "finetune.use_dora = True cannot be passed on"),
        (['finetune.target_modules=["q_proj"]'], "finetune.target_modules = ('q_proj',)"),
        (["finetune.critic_learning_rate=1e-3"], "finetune.learning_rate = 0.001"),
        (["finetune.validation_share=0.9"], "of which finetune.validation_share = 0.9 leaves"),
        (["provider.timeout_s=inf"], "timeout_s"),
        (["provider.poll_s=nan"], "poll_s"),
        (["provider.listing_lag_s=-1"], "listing_lag_s"),
    ],
)
def test_a_remote_experiment_is_refused_before_anything_is_spent(overrides, named):
    with serving(base=BASE) as server:
        status, said = run_demo(
            f'model="openai+{server.url}:{BASE}"',
            "finetune.learning_rate=1e-4",
            "train.questions=40",
            *overrides,
        )
        asked = {entry["method"] for entry in server.log()}
    assert (status, named in said) == (2, True), said
    assert asked <= {"GET"}
    assert not Path("runs").exists()


def test_batches_are_looked_for_where_evaluation_is_to_use_them():
    with serving(base=BASE) as server:
        options = (
            f'model="openai+{server.url}:{BASE}"',
            "iterations=0",
            "evaluation.batch=true",
        )
        server.tell(refuse={"GET /batches": 404})
        status, said = run_demo(*options)
        assert status == 2
        assert "the server has no batches" in said
        assert "set evaluation.batch = false" in said
        server.tell(refuse={"GET /batches": 403})
        pairs = [part for option in options for part in ("--set", option)]
        done = CliRunner().invoke(app, ["doctor", "demo", *pairs])
        assert (done.exit_code, "cannot be checked" in done.output) == (0, True), done.output


def test_a_share_that_holds_out_nothing_is_a_warning():
    with serving(base=BASE) as server:
        options = [
            f'model="openai+{server.url}:{BASE}"',
            "finetune.learning_rate=1e-4",
            "finetune.validation_share=0.0001",
        ]
        pairs = [part for option in options for part in ("--set", option)]
        done = CliRunner().invoke(app, ["doctor", "demo", *pairs])
    assert done.exit_code == 0, done.output
    assert "no validation loss will be measured" in done.output


@pytest.mark.parametrize(
    "overrides", [["iterations=0"], ['arms=["base"]']], ids=["no iterations", "nothing trained"]
)
def test_what_is_not_trained_needs_no_recipe(overrides):
    with serving(base=BASE) as server:
        options = [f'model="openai+{server.url}:{BASE}"', "finetune.lora_rank=8", *overrides]
        pairs = [part for option in options for part in ("--set", option)]
        done = CliRunner().invoke(app, ["doctor", "demo", *pairs])
    assert "lora_rank" not in done.output


@pytest.mark.parametrize("override", ["finetune.validation_share=0.5"])
def test_also_without_the_doctor_nothing_is_asked(tmp_path, experiment, override):
    config = experiments.load_config(str(experiment), [override])
    folder = folders.locate_run(tmp_path / "runs", "run")
    with (
        folders.start_run(folder, config) as store,
        pytest.raises(InvalidSettings, match=r"validation_share = 0\.5"),
    ):
        asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
    with Store.open(folder.database, read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns") == [(0,)]
