"""Shapes of published models, from their config.json, and the memory that they would take."""

import math
from pathlib import Path

from providers.local.memory import MemoryPlan, ModelSize, measure_model
from providers.types import Hyperparameters
from tests.providers.sparse_models import save_sparse

# Layers, width, inner width, heads of queries, and whether the output layer is the embedding.
# https://huggingface.co/Qwen/Qwen3-8B/blob/main/config.json and its siblings.
QWEN3 = {
    "0.6B": (28, 1024, 3072, 16, True),
    "1.7B": (28, 2048, 6144, 16, True),
    "4B": (36, 2560, 9728, 32, True),
    "8B": (36, 4096, 12288, 32, False),
    "14B": (40, 5120, 17408, 40, False),
    "32B": (64, 5120, 25600, 64, False),
}
WORDS, HEAD, SHARED_HEADS = 151_936, 128, 8
SOCIETY = Hyperparameters(lora_rank=16)
ADAPTERS = 6


def measure_qwen3(name: str, folder: Path) -> ModelSize:
    """The size of a Qwen3 model whose weights are a hole in a file."""
    layers, width, inner, heads, tied = QWEN3[name]
    folder.mkdir()
    tensors = {"model.embed_tokens.weight": ("BF16", [WORDS, width])}
    if not tied:
        tensors["lm_head.weight"] = ("BF16", [WORDS, width])
    queries, keys = heads * HEAD, SHARED_HEADS * HEAD
    shapes = {
        "self_attn.q_proj": [queries, width],
        "self_attn.k_proj": [keys, width],
        "self_attn.v_proj": [keys, width],
        "self_attn.o_proj": [width, queries],
        "mlp.gate_proj": [inner, width],
        "mlp.up_proj": [inner, width],
        "mlp.down_proj": [width, inner],
    }
    for layer in range(layers):
        for part, shape in shapes.items():
            tensors[f"model.layers.{layer}.{part}.weight"] = ("BF16", shape)
    save_sparse(folder / "model.safetensors", tensors)
    config = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": SHARED_HEADS,
        "head_dim": HEAD,
    }
    return measure_model(folder, None, config)


def write_row(name: str, folder: Path) -> str:
    """The row of docs/guides/local-gpu.md for a model: whole gigabytes, rounded up."""
    size = measure_qwen3(name, folder)
    cells = [f"Qwen3-{name}"]
    for bits, tokens in ((None, 16_384), ("nf4", 16_384), ("nf4", 4_096)):
        plan = MemoryPlan(2, bits, tokens, SOCIETY, ADAPTERS)
        cells.append(f"{math.ceil(size.estimate(plan).total / 1e9)} GB")
    return f"| {' | '.join(cells)} |"
