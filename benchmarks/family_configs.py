"""Tiny configurations of model families, for `benchmarks/families.py`.

A family is named here only where its shrunk default configuration (`shrunk_configs`) is not
enough: because it has variants that are computed differently, or sizes that depend on each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOKENS = 512
"""The size of the vocabulary: that of the built-in model's tokenizer, which every family gets."""

SHAPE: dict[str, Any] = {
    "vocab_size": TOKENS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_ROPES = {
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 8.0,
        "short_factor": [1.0] * 8,
        "long_factor": [1.0 + i for i in range(8)],
        "original_max_position_embeddings": 64,
    },
    "plain": {"rope_type": "default", "rope_theta": 1e4},
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
}
_LINEAR_HEADS = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_NEAR_AND_FAR = ["sliding_attention", "full_attention"]
_GPT = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512}
# Keys of the shape that a family does not have, or spells otherwise.
_NO_ATTENTION = ("num_attention_heads", "num_key_value_heads")
_OWN_SPELLING = (*_NO_ATTENTION, "hidden_size", "num_hidden_layers", "intermediate_size")
_OWN_LENGTH = (*_OWN_SPELLING, "max_position_embeddings")
_NO_LENGTH = (*_NO_ATTENTION, "max_position_embeddings")
_NO_GROUPS = ("num_key_value_heads",)


def _shape(*absent: str, **choices: Any) -> dict[str, Any]:
    kept = {key: value for key, value in SHAPE.items() if key not in absent}
    return {**kept, **choices}


FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("apertus", _shape()),
    "arcee": ("arcee", _shape()),
    "bitnet": ("bitnet", _shape()),
    "bloom": ("bloom", _shape(*_NO_ATTENTION, n_layer=4, n_head=4)),
    "cohere": ("cohere", _shape(logit_scale=0.25)),
    "cohere2": ("cohere2", _shape(sliding_window=16, head_dim=16, logit_scale=0.25)),
    "dbrx": (
        "dbrx",
        _shape(
            *_OWN_LENGTH,
            d_model=64,
            n_heads=4,
            n_layers=4,
            max_seq_len=512,
            attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
            ffn_config={"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        ),
    ),
    "deepseek_v2": ("deepseek_v2", _shape(**_LATENT, **_ROUTED)),
    "deepseek_v3": ("deepseek_v3", _shape(**_LATENT, **_ROUTED)),
    "diffllama": ("diffllama", _shape()),
    "doge": ("doge", _shape()),
    "dots1": ("dots1", _shape(**_ROUTED, head_dim=16)),
    "ernie4_5": ("ernie4_5", _shape(head_dim=16)),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        _shape(moe_num_experts=4, moe_k=2, moe_intermediate_size=32, moe_num_shared_experts=1),
    ),
    "falcon (rope)": (
        "falcon",
        _shape(*_NO_GROUPS, alibi=False, new_decoder_architecture=True, num_kv_heads=2),
    ),
    "falcon (one key head)": ("falcon", _shape(*_NO_GROUPS, alibi=False, multi_query=True)),
    "falcon (alibi)": ("falcon", _shape(*_NO_GROUPS, alibi=True, multi_query=False)),
    "falcon_mamba": ("falcon_mamba", _shape(*_NO_LENGTH, "intermediate_size", state_size=8)),
    "falcon_h1": (
        "falcon_h1",
        _shape(
            head_dim=16,
            mamba_d_ssm=64,
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_d_state=8,
            mamba_n_groups=1,
            mamba_chunk_size=16,
        ),
    ),
    "flex_olmo": ("flex_olmo", _shape(num_experts=4, num_experts_per_tok=2)),
    "gemma": ("gemma", _shape(head_dim=16)),
    "gemma2": ("gemma2", _shape(head_dim=16, sliding_window=16, query_pre_attn_scalar=16)),
    "gemma3_text": (
        "gemma3_text",
        _shape(head_dim=16, sliding_window=16, query_pre_attn_scalar=16),
    ),
    "gemma3n_text": (
        "gemma3n_text",
        _shape(
            head_dim=16,
            sliding_window=16,
            num_hidden_layers=5,
            num_kv_shared_layers=2,
            layer_types=[*_NEAR_AND_FAR, "sliding_attention", *_NEAR_AND_FAR],
            vocab_size_per_layer_input=TOKENS,
            hidden_size_per_layer_input=8,
            laurel_rank=4,
            altup_num_inputs=2,
        ),
    ),
    "gemma4_text": (
        "gemma4_text",
        _shape(
            head_dim=16,
            sliding_window=16,
            vocab_size_per_layer_input=TOKENS,
            hidden_size_per_layer_input=8,
        ),
    ),
    "gemma4_assistant": (
        "gemma4_assistant",
        {
            "text_config": _shape(
                head_dim=16,
                sliding_window=16,
                vocab_size_per_layer_input=0,
                hidden_size_per_layer_input=0,
                num_kv_shared_layers=4,
            ),
            "backbone_hidden_size": 64,
        },
    ),
    "gemma4_unified_assistant": (
        "gemma4_unified_assistant",
        {
            "text_config": _shape(head_dim=16, sliding_window=16, num_kv_shared_layers=4),
            "backbone_hidden_size": 64,
        },
    ),
    "glm": ("glm", _shape(head_dim=16)),
    "glm4": ("glm4", _shape(head_dim=16)),
    "glm4_moe": ("glm4_moe", _shape(**{**_ROUTED, "n_shared_experts": 1}, head_dim=16)),
    "gpt2": ("gpt2", _shape(*_OWN_LENGTH, **_GPT)),
    "gpt_bigcode": ("gpt_bigcode", _shape(*_OWN_LENGTH, **_GPT)),
    "gpt_neo": (
        "gpt_neo",
        _shape(
            *_NO_ATTENTION,
            "num_hidden_layers",
            num_layers=4,
            num_heads=4,
            attention_types=[[["global", "local"], 2]],
            window_size=16,
        ),
    ),
    "gpt_neox": ("gpt_neox", _shape(*_NO_GROUPS)),
    "gpt_oss": (
        "gpt_oss",
        _shape(**_LOCAL_MOE, head_dim=16, sliding_window=16, rope_parameters=_ROPES["plain"]),
    ),
    "gptj": ("gptj", _shape(*_OWN_LENGTH, **_GPT, rotary_dim=8)),
    "granite": ("granite", _shape(logits_scaling=4.0, residual_multiplier=0.5)),
    "granitemoe": ("granitemoe", _shape(**_LOCAL_MOE)),
    "helium": ("helium", _shape(head_dim=16)),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", _shape(head_dim=16)),
    "jamba": (
        "jamba",
        _shape(
            num_experts=4,
            num_experts_per_tok=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            mamba_d_state=8,
            mamba_dt_rank=8,
            use_mamba_kernels=False,
        ),
    ),
    "jetmoe": ("jetmoe", _shape(**_LOCAL_MOE, kv_channels=16)),
    "lfm2_moe": (
        "lfm2_moe",
        _shape(
            **_MOE,
            layer_types=["conv", "full_attention", "conv", "full_attention"],
            num_dense_layers=1,
        ),
    ),
    "lfm2": (
        "lfm2",
        _shape(
            layer_types=["conv", "full_attention", "conv", "full_attention"],
            block_auto_adjust_ff_dim=False,
        ),
    ),
    "llama": ("llama", _shape()),
    "llama (tied)": ("llama", _shape(tie_word_embeddings=True)),
    "llama (llama3 rope)": ("llama", _shape(rope_parameters=_ROPES["llama3"])),
    "llama (yarn)": ("llama", _shape(rope_parameters=_ROPES["yarn"])),
    "llama (dynamic rope)": (
        "llama",
        _shape(rope_parameters=_ROPES["dynamic"], max_position_embeddings=64),
    ),
    "llama4_text": (
        "llama4_text",
        _shape(
            head_dim=16,
            intermediate_size_mlp=96,
            num_local_experts=4,
            num_experts_per_tok=1,
            attention_chunk_size=32,
            interleave_moe_layer_step=2,
        ),
    ),
    "mamba": ("mamba", _shape(*_NO_LENGTH, "intermediate_size", state_size=8)),
    "mamba2": (
        "mamba2",
        _shape(
            *_NO_LENGTH,
            "intermediate_size",
            state_size=16,
            num_heads=8,
            head_dim=16,
            n_groups=1,
            chunk_size=16,
        ),
    ),
    "minicpm3": ("minicpm3", _shape(**_LATENT)),
    "minimax": ("minimax", _shape(**_LOCAL_MOE, head_dim=16, block_size=16)),
    "ministral": (
        "ministral",
        _shape(head_dim=16, sliding_window=16, rope_parameters=_ROPES["plain"]),
    ),
    "ministral3": ("ministral3", _shape()),
    "mistral": ("mistral", _shape(sliding_window=None)),
    "mistral (sliding)": ("mistral", _shape(sliding_window=16)),
    "mixtral": ("mixtral", _shape(**_LOCAL_MOE, sliding_window=None)),
    "modernbert-decoder": (
        "modernbert-decoder",
        _shape(*_NO_GROUPS, local_attention=16, bos_token_id=1),
    ),
    "mpt": ("mpt", _shape(*_OWN_LENGTH, d_model=64, n_layers=4, n_heads=4, max_seq_len=512)),
    "nanochat": ("nanochat", _shape()),
    "nemotron": ("nemotron", _shape()),
    "nemotron_h": (
        "nemotron_h",
        _shape(
            layers_block_type=["mamba", "moe", "attention", "mamba"],
            mamba_num_heads=4,
            mamba_head_dim=16,
            ssm_state_size=16,
            n_groups=1,
            chunk_size=16,
            head_dim=16,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            moe_shared_expert_intermediate_size=32,
        ),
    ),
    "olmo": ("olmo", _shape()),
    "olmo2": ("olmo2", _shape()),
    "olmo3": ("olmo3", _shape(sliding_window=16)),
    "olmo_hybrid": ("olmo_hybrid", _shape()),
    "olmoe": ("olmoe", _shape(num_experts=4, num_experts_per_tok=2)),
    "opt": ("opt", _shape(*_NO_GROUPS, ffn_dim=96, word_embed_proj_dim=64, init_std=0.15)),
    "persimmon": ("persimmon", _shape(*_NO_GROUPS)),
    "phi": ("phi", _shape()),
    "phi3": ("phi3", _shape(sliding_window=None)),
    "phi3 (sliding)": ("phi3", _shape(sliding_window=16)),
    "phi3 (longrope)": (
        "phi3",
        _shape(
            sliding_window=None,
            rope_parameters=_ROPES["longrope"],
            original_max_position_embeddings=64,
        ),
    ),
    "phimoe": ("phimoe", _shape(**_LOCAL_MOE, sliding_window=None)),
    "qwen2": ("qwen2", _shape()),
    "qwen2 (sliding)": (
        "qwen2",
        _shape(use_sliding_window=True, sliding_window=16, max_window_layers=2),
    ),
    "qwen2_moe": ("qwen2_moe", _shape(**_MOE, shared_expert_intermediate_size=48)),
    "qwen3": ("qwen3", _shape(head_dim=16)),
    "qwen3_moe": ("qwen3_moe", _shape(**_MOE, head_dim=16)),
    "qwen3_next": (
        "qwen3_next",
        _shape(**_MOE, **_LINEAR_HEADS, shared_expert_intermediate_size=32),
    ),
    "qwen3_5_text": ("qwen3_5_text", _shape(**_LINEAR_HEADS)),
    "rwkv": ("rwkv", _shape(*_NO_LENGTH, attention_hidden_size=64)),
    "smollm3": ("smollm3", _shape(no_rope_layer_interval=2)),
    "stablelm": ("stablelm", _shape()),
    "starcoder2": ("starcoder2", _shape(sliding_window=None)),
    "vaultgemma": ("vaultgemma", _shape(head_dim=16, sliding_window=16)),
    # Its heads' sizes are rounded up to 64 together.
    "xlstm": (
        "xlstm",
        _shape(*_NO_LENGTH, "intermediate_size", hidden_size=128, num_heads=4, chunk_size=16),
    ),
    "zamba2": (
        "zamba2",
        _shape(
            layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
            mamba_ngroups=1,
            n_mamba_heads=4,
            mamba_d_state=16,
            num_mem_blocks=1,
            chunk_size=16,
            attention_head_dim=32,
        ),
    ),
}
"""By name: the model type and the settings of its configuration."""
