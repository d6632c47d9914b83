"""Tiny real models: random weights, a byte-level tokenizer with single digits, a chat template."""

from pathlib import Path

import pytest

from providers.types import Message, ModelRef, Request, Sampling

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def save_tokenizer(folder: Path):
    """Save a tokenizer of 262 tokens and its chat template into `folder`; returns it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, [("a", "b")]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:],
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_model(folder: Path, architecture: str = "llama") -> Path:
    """Save a model of about 30,000 random weights and its tokenizer into `folder`."""
    import torch
    import transformers

    tokenizer = save_tokenizer(folder)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.4,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    configs = {
        "llama": lambda: transformers.LlamaConfig(**shape, num_key_value_heads=4),
        "qwen2": lambda: transformers.Qwen2Config(**shape, num_key_value_heads=2),
        "neox": lambda: transformers.GPTNeoXConfig(**shape),
        "mistral": lambda: transformers.MistralConfig(
            **shape, num_key_value_heads=2, sliding_window=16
        ),
        "recurrent_gemma": lambda: transformers.RecurrentGemmaConfig(
            **shape | {"num_hidden_layers": 3, "pad_token_id": None},
            num_key_value_heads=1,
            lru_width=32,
        ),
    }
    torch.manual_seed(7)
    transformers.AutoModelForCausalLM.from_config(configs[architecture]()).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, seed: int) -> Path:
    """Save a random LoRA adapter, strong enough to change what is said, into `folder`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama's folder."""
    return save_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def adapters(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three adapters of `llama`, named a0, a1, a2: a provider's workdir."""
    workdir = tmp_path_factory.mktemp("adapters")
    for index in range(3):
        save_adapter(workdir / f"a{index}", llama, seed=index)
    return workdir


@pytest.fixture
def make_model():
    """`save_model`, for tests that need another architecture."""
    return save_model


@pytest.fixture
def make_adapter():
    """`save_adapter`, for tests that need their own adapters."""
    return save_adapter


@pytest.fixture
def ask():
    """Makes requests: ask(text, artifact=None, key="k", **sampling), greedy unless told."""

    def make(text: str, artifact: str | None = None, key: str = "k", **sampling) -> Request:
        drawn = Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling})
        model = ModelRef(artifact or "base", "local:test", artifact)
        return Request(model, (Message("user", text),), drawn, key)

    return make
