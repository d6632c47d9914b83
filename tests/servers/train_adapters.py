"""Train six adapters at a server of Tinker's wire to their ends: a process for tests to kill.

    python -m tests.servers.train_adapters URL FOLDER

prints the adapters' names with their paths at the server as JSON. Started again in the same folder,
it goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from providers import registry
from providers.hyperparameters import Hyperparameters
from providers.types import Example, FinetuneSpec, Message, ModelRef
from tests.servers.recipes import BASE, SKYRL_RANK

ADAPTERS = 6
STEPS = 6
SETTINGS = {"loss_reduction": "mean", "save_every": 2, "poll_s": 0.2}
_BATCH = 4


def build_spec(number: int, base: ModelRef) -> FinetuneSpec:
    """The training of one adapter; every example has its own sum."""
    examples = []
    for place in range(STEPS * _BATCH):
        first, second = 11 + (place + 5 * number) % 30, 10 + place
        asked = Message("user", f"What is {first}+{second}?")
        answered = Message("assistant", f"It is \\boxed{{{first + second}}}.")
        examples.append(Example((asked, answered), (1,)))
    how = Hyperparameters(
        epochs=1,
        learning_rate=1e-3,
        batch_size=_BATCH,
        lora_rank=SKYRL_RANK,
        lora_alpha=32,
        max_grad_norm=0.0,
    )
    return FinetuneSpec(f"adapter-{number}", base, examples, f"{number:064d}", how, seed=number)


async def train(url: str, folder: Path) -> dict[str, str]:
    """The path at the server of every adapter, by its name."""
    provider = registry.connect(f"tinker+{url}:{BASE}", SETTINGS, folder)
    try:
        specs = [build_spec(number, provider.base) for number in range(ADAPTERS)]
        paths: dict[str, str] = {}
        handles = [await provider.find(spec) or await provider.submit(spec) for spec in specs]
        while len(paths) < ADAPTERS:
            await asyncio.sleep(SETTINGS["poll_s"])
            for handle in handles:
                state = await provider.poll(handle)
                assert state.status not in ("failed", "cancelled"), state.error
                if state.model is not None:
                    paths[handle.name] = str(state.model.artifact)
        return paths
    finally:
        await provider.close()


def main() -> None:
    print(json.dumps(asyncio.run(train(sys.argv[1], Path(sys.argv[2])))))


if __name__ == "__main__":
    main()
