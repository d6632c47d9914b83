"""Which learning rates and batch sizes move a model: LoRA on answers like those of a run.

    python benchmarks/rates.py [--model ADDRESS] [--task NAME] [--answers own|reference]
        [--examples N] [--held-out N] [--cells BATCH:RATE …]

Trains one adapter for each cell on the same examples, as a run trains an agent's generator, and
prints the optimizer steps, the loss on held-out examples before and after, and how far the tuned
model's predictions are from the base's along them (mean KL in nats per token). A fit whose KL is
below 0.001 leaves the society as it was. `own` trains on answers that the base itself gave and that
are right, as a first iteration does; `reference` on the worked solutions of a file.

Adam moves every weight by about the rate in each step, whatever the batch: rate times steps decides
how far a fit goes, and a large batch spends the same examples on fewer steps.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from evals.tasks import load_task
from providers.base import Provider
from providers.registry import connect
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    JobState,
    Message,
    ModelRef,
    Request,
    Sampling,
)

CELLS = ("192:1e-5", "192:1e-4", "192:1e-3", "16:1e-5", "16:1e-4", "16:5e-4", "16:1e-3")
LEAST_NATS = 1e-3
# As in the paper's released code; the answer is bounded, for time.
SAMPLING = Sampling(temperature=1.0, top_p=0.9, max_tokens=256)


async def ask_own(
    provider: Provider, task_name: str, options: dict[str, object], count: int
) -> list[Example]:
    """`count` answers of the base that are right by the task's gold."""
    task = load_task(task_name, options)
    found: list[Example] = []
    start = 0
    while len(found) < count:
        questions = task.questions("train", start, 64)
        start += len(questions)
        prompts = [(Message("user", task.prompt(question.text)),) for question in questions]
        answers = await asyncio.gather(
            *(
                provider.complete(Request(provider.base, prompt, SAMPLING, question.question_id))
                for prompt, question in zip(prompts, questions, strict=True)
            )
        )
        for question, prompt, answer in zip(questions, prompts, answers, strict=True):
            read = task.extract(answer.text)
            if read is not None and question.gold and task.equivalent(read, question.gold):
                found.append(Example((*prompt, Message("assistant", answer.text)), (1,)))
    return found[:count]


def read_reference(path: Path, count: int) -> list[Example]:
    """The first `count` rows of a GSM8K file: the question and its worked solution."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
    return [
        Example((Message("user", row["question"]), Message("assistant", row["answer"])), (1,))
        for row in rows
    ]


async def train(provider: Provider, examples: Sequence[Example], cell: str) -> JobState:
    """The ended job of one cell, "BATCH:RATE"; raises RuntimeError if it failed."""
    batch, rate = cell.split(":")
    how = Hyperparameters(epochs=2, batch_size=int(batch), learning_rate=float(rate))
    spec = FinetuneSpec(f"cell-{batch}-{rate}", provider.base, examples, cell, how)
    handle = await provider.submit(spec)
    for _ in range(100_000):
        state = await provider.poll(handle)
        if state.done:
            break
        await asyncio.sleep(0.1)
    if state.model is None:
        raise RuntimeError(f"{cell}: {state.error}")
    return state


async def measure_loss(provider: Provider, model: ModelRef, held_out: Sequence[Example]) -> float:
    """Mean loss in nats per answer token."""
    scores = await asyncio.gather(
        *(provider.score(model, e.messages[:-1], e.messages[-1].content) for e in held_out)
    )
    nats = [-logprob for score in scores for logprob in score.logprobs]
    return sum(nats) / len(nats)


async def measure_kl(provider: Provider, model: ModelRef, held_out: Sequence[Example]) -> float:
    """Mean D(tuned ‖ base) in nats per answer token."""
    found = await asyncio.gather(
        *(
            provider.divergences(model, [provider.base], e.messages[:-1], e.messages[-1].content)
            for e in held_out
        )
    )
    nats = [value for (divergence,) in found for value in divergence.nats]
    return sum(nats) / len(nats)


async def compare(arguments: argparse.Namespace) -> int:
    """Print a line for each cell."""
    options = json.loads(arguments.options)
    with tempfile.TemporaryDirectory() as folder:
        provider = connect(arguments.model, {}, Path(folder))
        try:
            count = arguments.examples + arguments.held_out
            examples = (
                await ask_own(provider, arguments.task, options, count)
                if arguments.answers == "own"
                else read_reference(arguments.data, count)
            )
            trained, held_out = examples[arguments.held_out :], examples[: arguments.held_out]
            before = await measure_loss(provider, provider.base, held_out)
            print(
                f"{arguments.model}, {arguments.answers} answers: {len(trained)} examples, 2 epochs"
            )
            print("batch:rate   steps  loss before  after  KL to the base, nats   seconds")
            for cell in arguments.cells:
                started = time.perf_counter()
                state = await train(provider, trained, cell)
                assert state.model is not None
                after = await measure_loss(provider, state.model, held_out)
                kl = await measure_kl(provider, state.model, held_out)
                mark = "  moves nothing" if kl < LEAST_NATS else ""
                print(
                    f"{cell:11} {len(state.points):6} {before:12.3f} {after:6.3f} {kl:21.2e} "
                    f"{time.perf_counter() - started:9.0f}{mark}",
                    flush=True,
                )
        finally:
            await provider.close()
    return 0


def main() -> int:
    """Compare the cells of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="embedded:")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--options", default="{}", help="the task's options, as JSON")
    parser.add_argument("--answers", choices=("own", "reference"), default="own")
    data = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_train.jsonl"
    parser.add_argument("--data", type=Path, default=data, help="the file of `reference`")
    parser.add_argument("--examples", type=int, default=480)
    parser.add_argument("--held-out", type=int, default=48)
    parser.add_argument("--cells", nargs="+", default=CELLS)
    return asyncio.run(compare(parser.parse_args()))


if __name__ == "__main__":
    raise SystemExit(main())
