"""A society of three whose adapters are trained at SkyRL, beside the same society trained here."""

import asyncio
import json
import os

import pytest

from evals.intervals import paired_right
from evals.tasks.arithmetic import create
from providers import registry
from providers.types import Message, ModelRef, Request, Sampling
from tests.servers.recipes import BASE, SKYRL_RANK
from tests.society.whole_run import rows, start

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(
        not os.environ.get("SOCIETY_TEST_SKYRL_RUN"),
        reason="two whole runs take many minutes on a processor; SOCIETY_TEST_SKYRL_RUN=1 runs it",
    ),
]

EXPERIMENT = f"""
model = "embedded:"
iterations = 2
[task]
name = "arithmetic"
[society]
agents = 3
rounds = 2
early_end = "eval"
[sampling]
temperature = 0.6
max_tokens = 112
summary_max_tokens = 112
[train]
questions = 60
[evaluation]
questions = 40
decodings = ["sampled", "greedy"]
[datasets]
critic_loss = "all"
[finetune]
learning_rate = 2e-3
max_grad_norm = 0.0
batch_size = 8
generator_epochs = 2
critic_epochs = 2
lora_rank = {SKYRL_RANK}
lora_alpha = 32
"""
SETTINGS = {"loss_reduction": "mean", "poll_s": 0.2, "limits": {"max_concurrent": 64}}
OVERRIDES = (
    "provider.loss_reduction=mean",
    "provider.poll_s=0.2",
    "provider.limits.max_concurrent=64",
)
QUESTIONS = 100
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=112)
RIGHT = """
    SELECT question_id, correct FROM votes
    WHERE iteration = 2 AND split = 'eval' AND decoding = 'sampled'
    QUALIFY round = max(round) OVER (PARTITION BY question_id)
    ORDER BY question_id
"""
GREEDY_SHARES = """
    SELECT iteration, accuracy FROM accuracy
    WHERE split = 'eval' AND decoding = 'greedy' AND measure = 'single' AND agent IS NULL
    QUALIFY round = max(round) OVER (PARTITION BY iteration)
    ORDER BY iteration
"""
CONSENSUS = """
    SELECT iteration, accuracy FROM accuracy
    WHERE split = 'eval' AND decoding = 'sampled' AND measure = 'consensus'
    ORDER BY iteration
"""
ADAPTERS = "SELECT model_id, artifact FROM models WHERE artifact IS NOT NULL ORDER BY model_id"


def address(server):
    return f"tinker+{server.url}:{BASE}"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "society.toml"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def trained_there(skyrl, experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("there")
    return start(folder, experiment, f"model={json.dumps(address(skyrl))}", *OVERRIDES)


@pytest.fixture(scope="module")
def trained_here(experiment, tmp_path_factory):
    return start(tmp_path_factory.mktemp("here"), experiment)


def test_a_society_trained_there_learns_as_one_trained_here(trained_there, trained_here):
    for run in (trained_there, trained_here):
        for sql in (GREEDY_SHARES, CONSENSUS):
            shares = dict(rows(run, sql))
            assert shares[2] > shares[0]
    there, here = dict(rows(trained_there, RIGHT)), dict(rows(trained_here, RIGHT))
    assert there.keys() == here.keys()
    difference = paired_right(list(here.values()), [there[name] for name in here])
    assert difference.low <= 0 <= difference.high, difference


def test_downloaded_adapters_answer_here_as_they_do_there(skyrl, trained_there, tmp_path):
    pytest.importorskip("torch")
    adapters = [(name, path) for name, path in rows(trained_there, ADAPTERS) if "-it2-" in name]
    assert len(adapters) == 6
    task = create({})
    asked = [
        (Message("user", task.prompt(question.text)),)
        for question in task.questions("train", 500, QUESTIONS)
    ]

    async def answer(provider, model_of):
        return await asyncio.gather(
            *(
                provider.complete(Request(model_of(number), messages, GREEDY, f"q{number}"))
                for number, messages in enumerate(asked)
            )
        )

    async def ask_there():
        provider = registry.connect(address(skyrl), SETTINGS, tmp_path / "client")
        try:
            models = [ModelRef(name, provider.base.address, path) for name, path in adapters]
            for model in models:
                await provider.download_model(model, tmp_path / model.model_id)
            return await answer(provider, lambda number: models[number % len(models)])
        finally:
            await provider.close()

    async def ask_here():
        provider = registry.connect("embedded:", {}, tmp_path / "models")
        try:
            models = [
                ModelRef(name, provider.base.address, str(tmp_path / name)) for name, _ in adapters
            ]
            await provider.load_adapters(models)
            return await answer(provider, lambda number: models[number % len(models)])
        finally:
            await provider.close()

    there, here = asyncio.run(ask_there()), asyncio.run(ask_here())
    same = sum(one.text == other.text for one, other in zip(there, here, strict=True))
    assert len({one.text for one in there}) > 10
    assert same >= 0.95 * QUESTIONS
