"""Debates whose agents speak with given models, and real adapters of the built-in model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from store import records, tables
from store.ledger import Store

SAID = {
    "q1": ["Plus terms: 6, 4. Answer 10.", "First 6, then 4 more: 10.", "I say 11."],
    "q2": ["It is 7.", "It is 7.", "Seven."],
    "q3": ["No idea.", "Perhaps 3.", "Perhaps 4, or rather 5."],
}
AGREES = {"q1": (True, True, False), "q2": (True, True, True), "q3": (True, False, False)}


@pytest.fixture
def debated(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Makes a store of debates: debated(models, rounds=2, said=SAID, …), one model per agent and
    round as (model_id, address, artifact)."""
    opened: list[Store] = []

    def build(
        models: Sequence[Sequence[tuple[str, str, str | None]]],
        said: Mapping[str, Sequence[str]] = SAID,
        agrees: Mapping[str, Sequence[bool]] = AGREES,
        decoding: str = "sampled",
        arm: str = "multiagent",
        iteration: int = 1,
    ) -> Store:
        store = Store.open(tmp_path / f"run{len(opened)}.duckdb")
        opened.append(store)
        store.write(*rows(models, said, agrees, decoding, arm, iteration))
        return store

    yield build
    for store in opened:
        store.close()


def rows(models, said, agrees, decoding, arm, iteration) -> Iterator[tables.Record]:
    for model_id, address, artifact in dict.fromkeys(m for each in models for m in each):
        yield records.Model(model_id, address, artifact=artifact)
    for question, texts in said.items():
        yield records.Question(question, "sums", "eval", f"{question}?")
        conversation = [{"role": "user", "content": f"What is {question}?"}]
        for number, speakers in enumerate(models, start=1):
            for agent, (text, model) in enumerate(zip(texts, speakers, strict=False), start=1):
                turn = records.Turn(
                    iteration, "eval", arm, decoding, question, agent, number, "answer", model[0],
                    json.dumps(conversation), text, text, "stop", 1, 1, 1.0,
                )  # fmt: skip
                yield turn
                yield records.Verdict(turn.turn_id, agrees[question][agent - 1], None)
            yield records.Vote(iteration, "eval", arm, decoding, question, number, "1", 2, 3, False)


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three LoRA adapters of the built-in model, a1 to a3: a provider's workdir."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from providers.embedded import MODEL_DIR

    workdir = tmp_path_factory.mktemp("tuned")
    for number in range(1, 4):
        torch.manual_seed(number)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        base = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
        model = get_peft_model(base, config)
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.15)
        model.save_pretrained(workdir / f"a{number}")
    return workdir
