"""The default configuration of a model family with all its usual sizes made tiny.

Parts of it, such as a vision tower, have configurations of their own and are made tiny likewise.
What does not fit together then is named here, by the type of the part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.family_configs import FAMILIES, SHAPE, TOKENS

_SMALL: Mapping[str, Any] = {
    **{key: value for key, value in SHAPE.items() if key != "initializer_range"},
    "bos_token_id": 1,
    "head_dim": 16,
    "ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "encoder_ffn_dim": 96,
    "feed_forward_size": 96,
    "d_model": 64,
    "d_ff": 96,
    "num_layers": 4,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "depth": 2,
    "num_heads": 4,
    "sliding_window": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "moe_k": 2,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "num_expert_group": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "image_size": 32,
    "patch_size": 8,
    "out_hidden_size": 64,
    "text_hidden_size": 64,
    "encoder_hidden_size": 64,
    "projector_hidden_size": 64,
    "alignment_intermediate_size": 64,
    "projection_dim": 64,
    "embed_dim": 64,
    "mlp_dim": 96,
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 512,
    "rotary_dim": 8,
    "n_layers": 4,
    "n_heads": 4,
    "emb_dim": 64,
    "vocab_size_per_layer_input": TOKENS,
    "hidden_size_per_layer_input": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_head_dim": 16,
    "linear_num_heads": 4,
    "mamba_n_heads": 8,
    "mamba_d_state": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "state_size": 8,
    "is_decoder": True,
}
_ABSENT = object()
# Parts that are the model that writes the text.
_TEXT_PARTS = {"text_config", "decoder", "llm_config"}
# Keys that a configuration has and does not let anyone set.
_FIXED: Mapping[str, tuple[str, ...]] = {
    "prophetnet": ("num_hidden_layers",),
    "xlnet": ("max_position_embeddings",),
}


def _turn(*parts: int, **more: Any) -> dict[str, Any]:
    """A rotation whose parts of a half head are for time, height and width."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(parts), **more}
    return {"rope_parameters": rope}


_THREE_AXES = _turn(2, 3, 3)
_FEW_CHANNELS = {
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "latent_channels": 32,
    "num_embeddings": 64,
}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"] * 2}
_SIGHT_AND_SOUND = {
    "audio_start_token_id": 500,
    "audio_token_id": 501,
    "vision_start_token_id": 502,
    "image_token_id": 503,
    "video_token_id": 504,
}
# What single families and parts of families need beyond that: the kinds of their layers, axes of
# their positions, sizes under names of their own.
_EXTRAS: Mapping[str, Mapping[str, Any]] = {
    "bailing_hybrid": _HYBRID,
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "chameleon_vqgan": _FEW_CHANNELS,
    "chameleon": {"vocabulary_map": {"<image>": 500, "IMGIMGAZ": 501, "IMGIMGBZ": 502}},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "cosmos3_edge_text": _turn(4, 2, 2),
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"] * 2, "num_experts_per_tok": 2},
    "dots3_note_audio_encoder": {
        "downsample_hidden_size": 16,
        "adapter_input_size": 64,
        "adapter_out_dim": 64,
    },
    "dots3_note_text": {
        "index_topk": 16,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "head_dim": 24,
        "shared_experts_intermediate_size": 32,
        "per_layer_config": {2: {"v_head_dim": 16}, 3: {"v_head_dim": 16}},
    },
    "dots3_note_vision_encoder": {
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse"],
        "per_layer_config": {2: {"num_local_experts": 2}, 3: {"num_local_experts": 4}},
        "adapter_in_dim": 64,
        "adapter_out_dim": 64,
    },
    "emu3": {
        "vocabulary_map": {"<image>": 500, "<|extra_200|>": 501, "<|visual token 000000|>": 502}
    },
    "emu3_vqgan": {"base_channels": 32, "channel_multiplier": [1, 1], "codebook_size": 64},
    "ernie4_5_vl_moe_text": {**_turn(3, 3, 2), "num_experts": 8},
    "glm4v_moe_text": _turn(2, 1, 1),
    "glm4v_text": _THREE_AXES,
    "glm_ocr_text": _THREE_AXES,
    "glm5_next_text": {
        "qk_rope_head_dim": 0,
        "head_dim": 0,
        "index_topk": 16,
        "index_head_dim": 16,
    },
    "granite4_vision": {
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[1, 0]],
        "spatial_target_layers": [0, 1, 2, 3],
    },
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "hunyuan_vl_text": _turn(2, 2, 2, 2),
    "inkling2_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 16,
        "sliding_window_size": 16,
        "rel_extent": 32,
        "unpadded_vocab_size": TOKENS,
    },
    "inkling2_vision": {"projection_hidden_dim": 64},
    "janus_vqgan": _FEW_CHANNELS,
    "kimi_linear": _HYBRID,
    "llama4_vision_model": {
        "projector_input_dim": 64,
        "projector_output_dim": 64,
        "vision_output_dim": 64,
    },
    "molmo2_adapter": {"vision_feature_layer": [1, 2]},
    "muse_spark_audio": {"hidden_sizes": [16, 16, 32, 32]},
    "phi4_multimodal_audio": {
        "num_blocks": 2,
        "nemo_conv_channels": 32,
        "ext_pw_out_channel": 64,
        "depthwise_separable_out_channel": 64,
    },
    "radio": {"max_img_size": 64, "video_temporal_patch_size": 2},
    "muse_spark_text": {"moe_hidden_size": 32},
    "nemotron_h": FAMILIES["nemotron_h"][1],
    "paddleocr_vl_text": _THREE_AXES,
    "qwen2_5_omni_text": _THREE_AXES,
    "qwen2_5_omni_thinker": _SIGHT_AND_SOUND,
    "qwen2_5_vl_text": _THREE_AXES,
    "qwen2_vl_text": _THREE_AXES,
    "qwen3_omni_moe_audio_encoder": {"downsample_hidden_size": 16},
    "qwen3_omni_moe_thinker": _SIGHT_AND_SOUND,
    "qwen3_vl_moe_text": _THREE_AXES,
    "qwen3_vl_text": _THREE_AXES,
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "hc_lowrank": 16,
    },
    "reformer": {
        "attention_head_size": 16,
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [16, 48],
        "attn_layers": ["local", "lsh", "local", "lsh"],
        "local_attn_chunk_length": 16,
        "lsh_attn_chunk_length": 16,
        "num_buckets": 4,
    },
    "roc_bert": {"pronunciation_vocab_size": 64, "shape_vocab_size": 64},
    "unlimited_ocr_text": {"num_key_value_heads": 4},
    "xlnet": {"d_head": 16, "d_inner": 96},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}


def shrink_config(model_type: str) -> Any:
    """The tiny configuration of a family.

    Raises whatever the configuration raises for sizes that do not fit together.
    """
    from transformers import CONFIG_MAPPING

    return _shrink(CONFIG_MAPPING[model_type])


def _shrink(kind: Any) -> Any:
    plain = kind()
    nested = {
        name: _shrink(type(part)).to_dict()
        for name in getattr(kind, "sub_configs", {})
        if hasattr(part := _read(plain, name), "to_dict")
    }
    fixed = _FIXED.get(kind.model_type, ())
    if _TEXT_PARTS & nested.keys():
        # Its sizes are those of its parts.
        fixed = (*fixed, *(SHAPE.keys() - {"vocab_size", "tie_word_embeddings"}))
    choices = {
        name: _fit(value, _read(plain, name))
        for name, value in _SMALL.items()
        if name not in fixed and _read(plain, name) is not _ABSENT
    }
    if "kv_lora_rank" in choices:
        # Latent attention has one key head for every query head.
        choices["num_key_value_heads"] = choices["num_attention_heads"]
        if "head_dim" in choices:
            choices["head_dim"] = choices["qk_rope_head_dim"]
    return kind(**{**choices, **nested, **_EXTRAS.get(kind.model_type, {})})


def _fit(value: Any, plain: Any) -> Any:
    """A size in the form of the default one, which may be one for each of several stages."""
    return [value] * len(plain) if isinstance(plain, list | tuple) else value


def _read(config: Any, name: str) -> Any:
    # Some configurations raise errors of their own for what differs between layers.
    try:
        return getattr(config, name, _ABSENT)
    except Exception:
        return None
