"""Tiny real models and tokenizers for the training tests, built from nothing."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from providers.local.train import Trained, finetune
from providers.types import Example, FinetuneSpec, Hyperparameters, Message, ModelRef

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}<|im_start|>system\n\n"
    "You are a careful solver.<|im_end|>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENED_REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make_tokenizer(template: str = CHATML) -> Any:
    """A byte-level tokenizer with four special tokens and a few merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>", "<|bos|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = ["user assistant system the answer is so is the answer, the sum is the total"] * 3
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        bos_token="<|bos|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = template
    return fast


def make_model(kind: str = "llama", context: int = 256) -> Any:
    """A causal model of two layers, the same at each call."""
    import torch
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
    )

    size: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": context,
    }
    torch.manual_seed(0)
    match kind:
        case "llama":
            return LlamaForCausalLM(
                LlamaConfig(**size, num_key_value_heads=1, tie_word_embeddings=True)
            )
        case "neox":
            return GPTNeoXForCausalLM(GPTNeoXConfig(**size))
        case _:
            return Gemma2ForCausalLM(
                Gemma2Config(
                    **size,
                    num_key_value_heads=1,
                    head_dim=16,
                    sliding_window=16,
                    final_logit_softcapping=2.0,
                )
            )


def with_adapter(model: Any, name: str = "default", dropout: float = 0.0) -> Any:
    """`model` with one fresh trainable adapter, the same at each call."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(1)
    return get_peft_model(model, config, adapter_name=name)


def make_examples(count: int, seed: int = 0) -> tuple[Example, ...]:
    """Debate-shaped conversations of varied length; the last answer is learnt."""
    rng = random.Random(seed)
    return tuple(
        Example(
            (
                Message("user", f"What is {rng.randrange(99)}+{rng.randrange(99)}?"),
                Message("assistant", "the sum is " + "so " * rng.randrange(12)),
                Message("user", "others: " + "the total is 7, " * rng.randrange(3)),
                Message("assistant", "the answer is " + "so " * rng.randrange(12) + "7"),
            ),
            loss_on=(3,),
        )
        for _ in range(count)
    )


def make_spec(examples: Sequence[Example], name: str = "t-a1-generator", **changes: Any) -> Any:
    hyperparameters: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "schedule": "cosine",
        "warmup": 0.1,
    }
    return FinetuneSpec(
        name=name,
        start=ModelRef("base", "local:org/base"),
        examples=examples,
        dataset_sha256="d" * 64,
        hyperparameters=Hyperparameters(**hyperparameters | changes),
    )


def fit(model: Any, spec: Any, out: Path, tokenizer: Any = None, **options: Any) -> Trained:
    """`finetune` on the CPU with nothing listening, unless `options` say otherwise."""
    settings: dict[str, Any] = {
        "device": "cpu",
        "on_point": lambda point, progress: None,
        "stop": threading.Event(),
    }
    return finetune(model, tokenizer or make_tokenizer(), spec, out, **settings | options)
