"""Training one adapter: our trainer against transformers' `Trainer` with its default padding.

Conversations made of GSM8K's questions and solutions, a model of SmolLM2-135M's shape with random
weights, LoRA rank 16 on all linear layers. Both sides take the same examples in the same order,
the same batches, learning rate and loss (mean over the answers' tokens), one after the other in
one process, and must report the same losses. Prints examples/s and the ratio; the goal is 1.4.

Reads gsm8k_train.jsonl from $SOCIETY_DATA or ../shared/data. $BENCH_STEPS (4) and $BENCH_BATCH
(8) say how much is trained. The `Trainer` keeps the activations and the logits of a whole padded
batch, over a gigabyte for each conversation in it; batches of 16 took 19 to 22 GB.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from providers.local.conversation import encode_example
from providers.local.schedule import list_step_members
from providers.types import Example, FinetuneSpec, Hyperparameters, Message, ModelRef

STEPS = int(os.environ.get("BENCH_STEPS", "4"))
BATCH = int(os.environ.get("BENCH_BATCH", "8"))
DATA = Path(os.environ.get("SOCIETY_DATA", Path(__file__).parents[2] / "shared" / "data"))
GOAL = 1.4
SEED = 0
RATE = 1e-3
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class Clock:
    """Losses of the steps of one side, and the time since construction at the last of them."""

    losses: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    cpu_started: float = field(default_factory=time.process_time)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def lap(self, loss: float) -> None:
        self.losses.append(loss)
        self.seconds = time.perf_counter() - self.started
        self.cpu_seconds = time.process_time() - self.cpu_started


def conversations(path: Path) -> Iterator[Example]:
    """GSM8K's rows as one question and one answer each."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            messages = (Message("user", row["question"]), Message("assistant", row["answer"]))
            yield Example(messages, loss_on=(1,))


def make_tokenizer(examples: list[Example]) -> Any:
    """A byte-level BPE over the data itself, digits apart, like SmolLM2's in compression."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        special_tokens=["<|im_end|>", "<|im_start|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (message.content for example in examples for message in example.messages)
    tokenizer.train_from_iterator(texts, trainer)
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=TEMPLATE,
    )


def make_model() -> Any:
    """SmolLM2-135M's shape with one fresh adapter; the same weights at each call."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=576,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            intermediate_size=1536,
            vocab_size=49152,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
            tie_word_embeddings=True,
        )
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def ours(tokenizer: Any, examples: list[Example]) -> Clock:
    """`finetune` from the first step to the last."""
    from providers.local.train import finetune

    model = make_model()
    spec = FinetuneSpec(
        name="benchmark",
        start=ModelRef("base", "local:random"),
        examples=examples,
        dataset_sha256="",
        hyperparameters=Hyperparameters(
            epochs=1, batch_size=BATCH, learning_rate=RATE, schedule="constant", warmup=0.0
        ),
        seed=SEED,
    )
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        finetune(
            model,
            tokenizer,
            spec,
            Path(folder) / "adapter",
            device="cpu",
            on_point=lambda point, progress: clock.lap(point.loss),
            stop=threading.Event(),
        )
    return clock


def theirs(tokenizer: Any, examples: list[Example]) -> Clock:
    """`Trainer` over the same sequences in the order our trainer takes them."""
    from transformers import (
        DataCollatorForSeq2Seq,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Laps(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clocks.append(Clock())

        def on_log(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            if "loss" in named["logs"]:
                clocks[0].lap(float(named["logs"]["loss"]))

    clocks: list[Clock] = []
    rows = []
    for step in range(STEPS):
        for index in list_step_members(len(examples), BATCH, SEED, step):
            sequence = encode_example(tokenizer, examples[index])
            pairs = zip(sequence.token_ids, sequence.trained, strict=True)
            labels = [token if trained else -100 for token, trained in pairs]
            rows.append({"input_ids": sequence.token_ids, "labels": labels})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=SEED,
        )
        trainer = Trainer(
            model=make_model(),
            args=arguments,
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[Laps()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clocks[0]


def main() -> int:
    """Run both sides and print the comparison; the exit status is 1 if the losses disagree."""
    path = DATA / "gsm8k_train.jsonl"
    if not path.is_file():
        print(f"skipped: {path} is absent; set SOCIETY_DATA to the folder that holds it")
        return 0
    everything = list(conversations(path))
    tokenizer = make_tokenizer(everything)
    examples = everything[: STEPS * BATCH]
    sequences = [encode_example(tokenizer, example) for example in examples]
    tokens = [len(sequence.token_ids) for sequence in sequences]
    answers = sum(sum(sequence.trained) for sequence in sequences)
    print(
        f"{len(examples)} conversations, {sum(tokens) / len(tokens):.0f} tokens on average, "
        f"{max(tokens)} at most, {answers / len(tokens):.0f} of them learnt; "
        f"{STEPS} steps of {BATCH}",
        flush=True,
    )
    sides: dict[str, Clock] = {}
    for name, run in (("ours", ours), ("Trainer", theirs)):
        clock = sides[name] = run(tokenizer, examples)
        losses = " ".join(f"{loss:.6f}" for loss in clock.losses)
        print(
            f"{name:8} {len(examples) / clock.seconds:6.3f} examples/s "
            f"({clock.seconds:.1f} s, {clock.cpu_seconds:.1f} s of CPU)   losses {losses}",
            flush=True,
        )
    ratio = sides["Trainer"].seconds / sides["ours"].seconds
    cpu_ratio = sides["Trainer"].cpu_seconds / sides["ours"].cpu_seconds
    print(f"ratio    {ratio:.2f} x the examples/s (goal {GOAL}); {cpu_ratio:.2f} x by CPU time")
    worst = max(
        abs(one - other)
        for one, other in zip(sides["ours"].losses, sides["Trainer"].losses, strict=True)
    )
    print(f"losses   differ by at most {worst:.1e}")
    return int(worst > 2e-3)


if __name__ == "__main__":
    sys.exit(main())
