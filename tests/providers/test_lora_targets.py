"""Which layers get an adapter, on tiny models of families that PEFT's own choice breaks."""

from pathlib import Path

import pytest
import torch
import transformers

from providers.errors import InvalidSettings
from providers.hyperparameters import Hyperparameters
from providers.local.lora import add_trainable_adapter
from providers.local.lora_targets import choose_targets, describe_share, measure_share
from providers.local.peft_adapters import PeftAdapters
from providers.local.trial_adapters import write_trial_adapter

SIZE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
MAMBA = {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}
MLP = {"gate_proj", "up_proj", "down_proj"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
FAMILIES = {
    "llama": (transformers.LlamaConfig, {}, ATTENTION | MLP),
    # The experts are fused, and the router is a parameter.
    "mixtral": (transformers.MixtralConfig, EXPERTS, ATTENTION),
    "gpt_oss": (transformers.GptOssConfig, EXPERTS | {"head_dim": 16}, ATTENTION),
    # Dense and shared layers have the names that the experts had once.
    "deepseek_v3": (
        transformers.DeepseekV3Config,
        LATENT,
        {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"} | MLP,
    ),
    # The router is a linear layer that returns a tuple.
    "llama4": (
        transformers.Llama4TextConfig,
        EXPERTS | {"head_dim": 16, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 2},
        ATTENTION | MLP,
    ),
    "phimoe": (transformers.PhimoeConfig, EXPERTS, ATTENTION),
    # PEFT refuses the out_proj of its state-space layers.
    "falcon_h1": (transformers.FalconH1Config, MAMBA, ATTENTION | MLP | {"in_proj"}),
}
FUSED = ["mixtral", "gpt_oss", "deepseek_v3", "llama4"]
IDS = torch.arange(12)[None] % 64


def make(family):
    kind, extra, _ = FAMILIES[family]
    torch.manual_seed(7)
    return transformers.AutoModelForCausalLM.from_config(kind(**SIZE | extra)).eval()


@torch.no_grad()
def read_logits(model):
    return model(IDS).logits


def write_trial(model, settings, folder):
    write_trial_adapter(model, lambda m: add_trainable_adapter(m, None, settings), folder, seed=3)


def list_adapted(tuned):
    names = [name for name, _ in tuned.named_parameters() if ".lora_A." in name]
    return {name.split(".lora_A.")[0].removeprefix("base_model.model.") for name in names}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_layers_are_those_that_can_have_an_adapter(family):
    model = make(family)
    before = read_logits(model)
    targets = choose_targets(model, Hyperparameters())
    assert {name.rpartition(".")[2] for name in targets.modules} == FAMILIES[family][2]
    assert targets.parameters == ()
    tuned = add_trainable_adapter(model, None, Hyperparameters(lora_rank=4))
    assert list_adapted(tuned) == set(targets.modules)
    tuned(IDS, labels=IDS).loss.backward()
    assert all(w.grad.any() for name, w in tuned.named_parameters() if "lora_B" in name)
    tuned.unload()
    assert torch.equal(read_logits(model), before)


@pytest.mark.parametrize(
    ("family", "changes"),
    [(family, {}) for family in FAMILIES]
    + [(family, {"lora_experts": True}) for family in FUSED]
    + [("deepseek_v3", {"use_rslora": True}), ("llama", {"use_dora": True})]
    + [("llama", {"init_lora_weights": "gaussian", "target_modules": ("q_proj", "mlp.up_proj")})],
)
def test_an_adapter_of_any_settings_is_written_loaded_and_changes_what_is_said(
    family, changes, tmp_path
):
    """As training would write it, and as the debates read it."""
    model, twin = make(family), make(family)
    settings = Hyperparameters(lora_rank=4, lora_alpha=64, **changes)
    write_trial(model, settings, tmp_path)
    before = read_logits(model)
    adapters = PeftAdapters(model)
    adapters.load("trial", tmp_path)
    with adapters.apply("trial"):
        answered = read_logits(model)
    adapters.detach()
    assert torch.equal(read_logits(model), before)
    assert (answered - before).abs().max() > 1e-3
    # A fit that goes on from the folder begins with what was answered.
    tuned = add_trainable_adapter(twin, tmp_path, settings).eval()
    assert torch.allclose(read_logits(tuned), answered, atol=1e-5)


@pytest.mark.parametrize("family", FUSED)
def test_fused_experts_are_trained_by_choice_and_a_small_share_is_said(family):
    model = make(family)
    tuned = add_trainable_adapter(model, None, Hyperparameters())
    without = describe_share(tuned)
    assert ("lora_experts = true adds its experts" in without.remedy) == (
        without.level == "warning"
    )
    tuned.unload()
    tuned = add_trainable_adapter(model, None, Hyperparameters(lora_experts=True))
    assert describe_share(tuned).level == "ok"
    assert measure_share(tuned) > 0.9
    tuned(IDS, labels=IDS).loss.backward()
    # Of the experts some get no token here, so only the whole factor has a gradient.
    assert all(w.grad.any() for name, w in tuned.named_parameters() if "lora_B" in name)


def test_of_a_multimodal_model_only_the_text_part_gets_adapters():
    text = transformers.Gemma3TextConfig(**SIZE, head_dim=16, sliding_window=8)
    vision = transformers.SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = transformers.Gemma3Config(
        text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    targets = choose_targets(model, Hyperparameters())
    assert len(targets.modules) == 2 * 7
    assert all("language_model" in name for name in targets.modules)
    # Both parts have a k_proj.
    chosen = choose_targets(model, Hyperparameters(target_modules=("k_proj",)))
    tuned = add_trainable_adapter(model, None, Hyperparameters(target_modules=("k_proj",)))
    assert list_adapted(tuned) == set(chosen.modules)
    assert len(chosen.modules) == 2
    assert describe_share(tuned).level == "warning"
    assert measure_share(tuned) < 0.25


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("llama", {"target_modules": ("q_proj", "qproj")}, "no linear layer 'qproj'; it has down_"),
        ("llama", {"target_modules": "lm_head"}, "'lm_head' can have no adapter: it is the output"),
        ("llama", {"lora_experts": True}, "no fused experts"),
        ("llama4", {"target_modules": ("router",)}, "a Llama4Router is no plain linear layer"),
        ("falcon_h1", {"target_modules": ("out_proj",)}, "PEFT refuses it"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_by_name(family, changes, reason):
    model = make(family)
    with pytest.raises(InvalidSettings, match=reason):
        add_trainable_adapter(model, None, Hyperparameters(**changes))


def test_what_an_adapter_has_otherwise_is_named_when_it_is_trained_further(tmp_path: Path):
    write_trial(make("llama"), Hyperparameters(lora_rank=4), tmp_path)
    with pytest.raises(InvalidSettings, match=r"use_dora = True \(there: False\)"):
        add_trainable_adapter(make("llama"), tmp_path, Hyperparameters(lora_rank=4, use_dora=True))
