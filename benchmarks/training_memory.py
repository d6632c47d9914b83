"""Memory of training long examples on a CPU: its peak, and what recomputing activations costs.

One job with examples of 512, 1,024 and 2,048 tokens trains an adapter of rank 16 on a model of
SmolLM2-135M's shape with random weights; each job has a process of its own, once with
`finetune.gradient_checkpointing = "auto"` and once with false, the settings' defaults otherwise.
Prints peak memory, examples/s, what `society doctor` estimates, and whether both ways gave the same
weights. The exit status is 1 if a job with "auto" takes more than 3.2 GB, if an estimate is too low
by more than a tenth or too high by more than a half, or if the weights differ.

Every example is a step's piece of its own, so a step of $BENCH_BATCH (1) shows the peak of any.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from providers.types import Example

LENGTHS = (512, 1024, 2048)
BATCH = int(os.environ.get("BENCH_BATCH", "1"))
GOAL_BYTES = 3_200_000_000
TOO_LOW, TOO_HIGH = 0.9, 1.5
SEED = 0
Recompute = Literal["auto", False]


def make_examples(length: int) -> tuple[Any, list[Example]]:
    """Conversations of exactly `length` tokens, half of them trained: a digit is a token."""
    from benchmarks.training import make_tokenizer
    from providers.local.conversation import encode_example
    from providers.types import Example, Message

    rng = random.Random(SEED)

    def write(question: int, answer: int) -> Example:
        texts = ("".join(rng.choices("0123456789", k=count)) for count in (question, answer))
        messages = (Message("user", next(texts)), Message("assistant", next(texts)))
        return Example(messages, loss_on=(1,))

    tokenizer = make_tokenizer([write(64, 64)])
    frame = len(encode_example(tokenizer, write(1, 1)).token_ids) - 2
    half = (length - frame) // 2
    examples = [write(length - frame - half, half) for _ in range(BATCH)]
    assert all(len(encode_example(tokenizer, each).token_ids) == length for each in examples)
    return tokenizer, examples


def train(length: int, recompute: Recompute, folder: Path) -> None:
    """One job in this process; prints what was measured as JSON."""
    from benchmarks.training import make_model
    from providers.local.train import finetune
    from providers.types import FinetuneSpec, Hyperparameters, ModelRef

    tokenizer, examples = make_examples(length)
    model = make_model()
    how = Hyperparameters(
        epochs=1, learning_rate=1e-3, schedule="constant", gradient_checkpointing=recompute
    )
    base = ModelRef("base", "local:random")
    spec = FinetuneSpec("memory", base, examples, "", how, seed=SEED)
    before, started = read_peak(), time.perf_counter()
    out = folder / f"{length}-{recompute}"
    finetune(
        model,
        tokenizer,
        spec,
        out,
        device="cpu",
        on_point=lambda point, progress: None,
        stop=threading.Event(),
    )
    rate = len(examples) / (time.perf_counter() - started)
    print(json.dumps({"peak": read_peak(), "before": before, "rate": rate}))


def read_peak() -> int:
    """The most bytes that this process has held in memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024


def estimate(folder: Path) -> None:
    """What `society doctor` reckons for each length; prints it as JSON."""
    from benchmarks.training import make_model
    from providers.local.loading import silence_transformers
    from providers.local.machine import guess_dtype_bytes
    from providers.local.memory import make_plan, measure_model
    from providers.local.settings import LocalSettings
    from providers.types import Hyperparameters

    with silence_transformers():
        make_model().unload().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    size, settings = measure_model(folder, None, config), LocalSettings(device="cpu")
    found = {}
    for recompute in ("auto", False):
        how = Hyperparameters(gradient_checkpointing=recompute)
        for length in LENGTHS:
            plan = make_plan(settings, guess_dtype_bytes(settings), how, 0, length, on_cpu=True)
            found[f"{length}-{recompute}"] = size.estimate(plan).fitting
    print(json.dumps(found))


def start(*arguments: str) -> dict[str, Any]:
    """Run a part of this script in a process of its own, and read what it prints."""
    # This process stays small: a child's peak begins with that of its parent.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_memory", *arguments],
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def find_greatest_difference(one: Path, other: Path) -> float:
    """By how much two adapters differ."""
    from safetensors.torch import load_file

    first, second = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def main() -> int:
    """All jobs and the comparison; the exit status is 1 if a goal is missed."""
    faults = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        estimates = start("estimate", str(folder / "base"))
        print("tokens  recomputed     peak  before training  estimate  examples/s")
        for length in LENGTHS:
            for recompute in ("auto", "false"):
                found = start("train", str(length), recompute, str(folder))
                guess = estimates[f"{length}-{'auto' if recompute == 'auto' else False}"]
                peak, before = (f"{found[name] / 1e9:.2f} GB" for name in ("peak", "before"))
                print(
                    f"{length:6}  {recompute:10}  {peak}  {before:>15}  {guess / 1e9:5.2f} GB"
                    f"  {found['rate']:10.3f}",
                    flush=True,
                )
                if recompute == "auto" and found["peak"] > GOAL_BYTES:
                    faults.append(f"{length} tokens take {found['peak'] / 1e9:.2f} GB")
                if not TOO_LOW <= guess / found["peak"] <= TOO_HIGH:
                    faults.append(f"the estimate for {length} tokens, {recompute}, is off")
        for length in LENGTHS:
            apart = find_greatest_difference(folder / f"{length}-auto", folder / f"{length}-False")
            print(f"{length:6}  weights differ by at most {apart:.1e}")
            if apart > 0:
                faults.append(f"{length} tokens: the weights differ")
    print("\n".join(faults) or f"all goals met ({GOAL_BYTES / 1e9:.1f} GB)")
    return int(bool(faults))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", length, recompute, folder]:
            train(int(length), "auto" if recompute == "auto" else False, Path(folder))
        case ["estimate", folder]:
            estimate(Path(folder))
        case _:
            sys.exit(main())
