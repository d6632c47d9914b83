"""Model folders of any size that take no room: headers that tell of weights, and holes for them."""

import json
import struct
from pathlib import Path

BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "I32": 4}


def save_sparse(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """A safetensors file of tensors by name, each of a type and a shape; its weights are a hole."""
    header, place = {}, 0
    for name, (kind, shape) in tensors.items():
        length = BYTES[kind]
        for extent in shape:
            length *= extent
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, place + length]}
        place += length
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)


def list_llama(layers: int, width: int, inner: int, words: int, kind: str = "BF16"):
    """The tensors of a Llama whose keys are as wide as its queries, and whose head is its own."""
    tensors = {"model.embed_tokens.weight": (kind, [words, width])}
    tensors["lm_head.weight"] = (kind, [words, width])
    for layer in range(layers):
        for name in ("q", "k", "v", "o"):
            path = f"model.layers.{layer}.self_attn.{name}_proj.weight"
            tensors[path] = (kind, [width, width])
        for name, shape in (("gate", [inner, width]), ("up", [inner, width])):
            tensors[f"model.layers.{layer}.mlp.{name}_proj.weight"] = (kind, shape)
        tensors[f"model.layers.{layer}.mlp.down_proj.weight"] = (kind, [width, inner])
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = (kind, [width])
    return tensors
