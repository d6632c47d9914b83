"""A client that is killed while it trains six adapters at SkyRL, and what is in them afterwards."""

import asyncio
import json
import random
import subprocess
import sys
import time

import httpx
import pytest

from providers import registry
from providers.types import ModelRef
from tests.servers.recipes import BASE, ROOT, SKYRL_ADAPTERS
from tests.servers.train_adapters import ADAPTERS, SETTINGS, STEPS

pytestmark = [pytest.mark.servers, pytest.mark.timeout(5400)]

KILLS = 3
CLOSE = 0.01
"""Two trainings with the same steps differ by rounding; one step of six is more than a tenth."""


def start(server, folder):
    command = [sys.executable, "-m", "tests.servers.train_adapters", server.url, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)


def finish(server, folder):
    process = start(server, folder)
    output, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(output)


def count_intents(folder):
    """How many optimizer steps have been sent so far, repeated ones included."""
    return sum(
        line.startswith('{"intent"')
        for path in folder.glob(".*training*")
        for line in path.read_text().splitlines()
    )


def read_points(folder):
    """The steps of every adapter, as its journal has them in the end."""
    from providers.tinker.journal import read_journal
    from tests.servers.train_adapters import build_spec

    base = ModelRef("base", "base")
    journals = {}
    for path in sorted(folder.glob(".*training*")):
        digest = json.loads(path.read_text().splitlines()[0])["digest"]
        number = next(n for n in range(ADAPTERS) if f"adapter-{n}" in path.name)
        journals[number] = read_journal(folder / build_spec(number, base).name, digest)
    return {number: [point.step for point in one.points] for number, one in journals.items()}


def download(server, paths, folder):
    """What every adapter adds to the weights of every layer, B·A, by adapter and layer."""
    from safetensors.torch import load_file

    async def fetch():
        provider = registry.connect(f"tinker+{server.url}:{BASE}", SETTINGS, folder / "client")
        try:
            for name, path in paths.items():
                model = ModelRef(name, provider.base.address, path)
                await provider.download_model(model, folder / name)
        finally:
            await provider.close()

    asyncio.run(fetch())
    found = {}
    for name in paths:
        weights = load_file(folder / name / "adapter_model.safetensors")
        found[name] = {
            layer: weights[layer.replace("lora_A", "lora_B")] @ weights[layer]
            for layer in weights
            if "lora_A" in layer
        }
    return found


def compare(expected, found):
    """How far two adapters are apart, as a part of the length of the first."""
    apart = sum(float((expected[layer] - found[layer]).square().sum()) for layer in expected)
    length = sum(float(expected[layer].square().sum()) for layer in expected)
    return (apart / length) ** 0.5


def require_free_slots(server):
    """All slots can be had, and are given back."""
    import tinker

    service = tinker.ServiceClient(base_url=server.url, api_key="tml-of-tests")
    made = [
        service.create_lora_training_client(str(BASE), rank=1, seed=0, train_unembed=False)
        for _ in range(SKYRL_ADAPTERS)
    ]
    for client in made:
        body = {"model_id": client.model_id, "type": "unload_model"}
        httpx.post(f"{server.url}/api/v1/unload_model", json=body).raise_for_status()


def test_a_killed_client_leaves_equal_adapters_every_step_once_and_no_slot(skyrl, tmp_path):
    whole = finish(skyrl, tmp_path / "whole")
    chance = random.Random(0)
    killed = tmp_path / "killed"
    for number in range(KILLS):
        before = count_intents(killed)
        process = start(skyrl, killed)
        more = chance.randint(3, ADAPTERS * STEPS // KILLS)
        while count_intents(killed) < before + more and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, f"the client ended before kill {number + 1}"
        process.kill()
        process.wait()
        process.stdout.close()
    resumed = finish(skyrl, killed)
    every = list(range(1, STEPS + 1))
    assert list(read_points(killed).values()) == [every] * ADAPTERS
    expected = download(skyrl, whole, tmp_path / "whole-home")
    found = download(skyrl, resumed, tmp_path / "killed-home")
    apart = {name: compare(expected[name], found[name]) for name in expected}
    assert max(apart.values()) < CLOSE, apart
    assert compare(expected["adapter-0"], found["adapter-1"]) > 10 * CLOSE
    require_free_slots(skyrl)
