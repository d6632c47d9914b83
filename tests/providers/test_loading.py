"""Checkpoints as people have them: without SDPA, of images and texts, with code of their own."""

import asyncio
import json
import shutil

import pytest
import torch
import transformers

from providers.errors import InvalidSettings, ModelNotFound, Unsupported
from providers.local.attention import choose_attention, may_use_sdpa
from providers.local.backbone import Backbone
from providers.local.conversation import decode_answer
from providers.local.factory import check, connect, output_settings
from providers.local.loading import load_tokenizer, translate_errors
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.types import Hyperparameters

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = {
    "vocab_size": 262,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def open_backbone(folder, **settings):
    options = LocalSettings.read({"device": "cpu", "dtype": "float32", **settings})
    return Backbone(locate_model(str(folder), options), options)


def save(folder, config, tokens):
    """Save a model of random weights of this config, with the tokenizer of the folder `tokens`."""
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokens / name, folder / name)
    autos = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
    kinds = [getattr(transformers, name) for name in autos]
    known = [
        kind._model_mapping[type(config)] for kind in kinds if type(config) in kind._model_mapping
    ]
    # A class of a part has that part's config.
    kind = next((kind for kind in known if kind.config_class is type(config)), known[0])
    torch.manual_seed(3)
    kind._from_config(config).save_pretrained(folder)
    return folder


def edit_config(folder, **changes):
    """Change keys of config.json; `None` removes one."""
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


@pytest.fixture
def copy(llama, tmp_path):
    """A copy of the tiny Llama that a test may change."""
    return shutil.copytree(llama, tmp_path / "copy")


# Attention.


def find_class(name):
    config = transformers.AutoConfig.for_model(name)
    return transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config


@pytest.mark.parametrize("name", ["gpt_oss", "gemma2", "vaultgemma", "gptj", "bloom", "mpt"])
def test_without_sdpa_a_graphics_card_gets_eager_attention(name):
    assert choose_attention("auto", CUDA, *find_class(name)) == "eager"
    with pytest.raises(InvalidSettings, match=r"'sdpa'.*does not have it.*\"eager\" or \"auto\""):
        choose_attention("sdpa", CUDA, *find_class(name))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "falcon_h1"])
def test_with_sdpa_a_graphics_card_gets_it_and_the_cpu_does_not(name):
    assert choose_attention("auto", CUDA, *find_class(name)) == "sdpa"
    assert choose_attention("auto", CPU, *find_class(name)) == "eager"
    assert choose_attention("sdpa", CPU, *find_class(name)) == "sdpa"


def test_a_soft_cap_that_sdpa_would_drop_keeps_eager():
    model_class, config = find_class("gemma3_text")
    config.attn_logit_softcapping = 30.0
    assert not may_use_sdpa(model_class, config)
    assert choose_attention("auto", CUDA, model_class, config) == "eager"
    with pytest.raises(InvalidSettings, match=r"drop the soft cap of 30\.0"):
        choose_attention("sdpa", CUDA, model_class, config)


def test_a_part_of_a_model_that_lacks_sdpa_decides():
    config = transformers.LlavaConfig(
        text_config=transformers.GPTJConfig(), vision_config=transformers.CLIPVisionConfig()
    )
    assert not may_use_sdpa(transformers.LlavaForConditionalGeneration, config)
    assert may_use_sdpa(transformers.LlavaForConditionalGeneration, transformers.LlavaConfig())


@pytest.mark.parametrize(
    ("asked", "device", "words"),
    [
        ("flash_attention_2", CPU, "needs a graphics card"),
        ("sdpaa", CUDA, "not known to transformers.*flash_attention_2, .*sdpa"),
        ("flex", CUDA, "not known to transformers"),
    ],
)
def test_an_attention_that_cannot_work_is_refused(asked, device, words):
    with pytest.raises(InvalidSettings, match=words):
        choose_attention(asked, device, *find_class("llama"))


@pytest.mark.parametrize("asked", ["flex_attention", "flash_attention_2", "kernels-community/fa3"])
def test_other_attention_is_passed_on(asked):
    assert choose_attention(asked, CUDA, *find_class("llama")) == asked


def test_the_setting_reaches_the_model(tmp_path, llama):
    config = transformers.Gemma2Config(**SHAPE, head_dim=8, attn_logit_softcapping=20.0)
    gemma = save(tmp_path / "gemma2", config, llama)
    backbone = open_backbone(gemma)
    with backbone.use_prompt_attention():
        assert backbone.model.config._attn_implementation == "eager"
    with pytest.raises(InvalidSettings, match="Gemma2ForCausalLM does not have it"):
        open_backbone(gemma, attention="sdpa")
    assert open_backbone(llama, attention="sdpa").model.config._attn_implementation == "sdpa"


# Models of images and texts.

_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def make_qwen_vl():
    text = {**SHAPE, "rope_parameters": _MROPE}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
    vision |= {"out_hidden_size": 32, "fullatt_block_indexes": [0], "window_size": 28}
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)


def make_qwen3_vl():
    text = {**SHAPE, "head_dim": 8, "rope_parameters": _MROPE}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
    vision |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0]}
    return transformers.Qwen3VLConfig(
        text_config=text, vision_config={**vision, "num_position_embeddings": 16}
    )


def make_mistral3():
    text = {**SHAPE, "model_type": "mistral", "sliding_window": None}
    vision = {**_VISION, "model_type": "pixtral", "head_dim": 16}
    return transformers.Mistral3Config(text_config=text, vision_config=vision, image_token_id=5)


def make_gemma3():
    text = {**SHAPE, "head_dim": 8, "sliding_window": 16}
    return transformers.Gemma3Config(text_config=text, vision_config=_VISION)


def make_llama4():
    text = {**SHAPE, "head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2}
    vision = {**_VISION, "intermediate_size": 128, "vision_output_dim": 32}
    vision |= {"projector_input_dim": 32, "projector_output_dim": 32}
    return transformers.Llama4Config(text_config=text, vision_config=vision)


def make_emu3():
    tokens = {"<image>": 257, "<|extra_200|>": 258, "<|visual token 000000|>": 259}
    drawn = {"base_channels": 32, "channel_multiplier": [1, 1], "codebook_size": 8}
    drawn |= {"num_res_blocks": 1, "hidden_size": 32}
    return transformers.Emu3Config(
        text_config={**SHAPE, "bos_token_id": 1}, vq_config=drawn, vocabulary_map=tokens
    )


def make_qwen_omni():
    """A model that listens, sees and speaks, stored without the part that speaks."""
    seen = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
    heard = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2}
    thinker = {
        "text_config": {**SHAPE, "rope_parameters": _MROPE},
        "vision_config": {**seen, "out_hidden_size": 32, "fullatt_block_indexes": [0]},
        "audio_config": {**heard, "encoder_ffn_dim": 32, "output_dim": 32},
        "vision_start_token_id": 257,
        "image_token_id": 258,
        "video_token_id": 259,
        "audio_token_id": 260,
    }
    return transformers.Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=False)


@pytest.mark.parametrize(
    ("make", "class_name"),
    [
        (make_emu3, "Emu3ForConditionalGeneration"),
        (make_qwen_omni, "Qwen2_5OmniThinkerForConditionalGeneration"),
        (make_qwen_vl, "Qwen2_5_VLForConditionalGeneration"),
        (make_qwen3_vl, "Qwen3VLForConditionalGeneration"),
        (make_mistral3, "Mistral3ForConditionalGeneration"),
        (make_gemma3, "Gemma3ForConditionalGeneration"),
        (make_llama4, "Llama4ForCausalLM"),
    ],
)
async def test_a_model_of_images_and_texts_answers_texts(make, class_name, tmp_path, llama, ask):
    folder = save(tmp_path / "model", make(), llama)
    check(str(folder), {})
    provider = connect(str(folder), {"device": "cpu", "dtype": "float32"}, tmp_path)
    texts = ["Why?", "What is 3+4*2? " * 2, "x" * 30]
    try:
        got = await asyncio.gather(*(provider.complete(ask(text, max_tokens=8)) for text in texts))
        backbone = provider._models.base
        assert type(backbone.model).__name__ == class_name
        for text, completion in zip(texts, got, strict=True):
            assert completion.text == generate(backbone, text, 8)
    finally:
        await provider.close()


def generate(backbone, text, tokens):
    """What transformers itself answers, greedily."""
    said = [{"role": "user", "content": text}]
    ids = backbone.tokenizer.apply_chat_template(
        said, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        out = backbone.model.generate(
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            do_sample=False,
            max_new_tokens=tokens,
        )
    answer = out[0, ids["input_ids"].shape[1] :].tolist()
    ends = [place for place, token in enumerate(answer) if token in backbone.ends]
    return decode_answer(backbone.tokenizer, answer[: ends[0]] if ends else answer)


def test_the_template_of_a_processor_is_found(copy):
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    settings = LocalSettings()
    tokenizer = load_tokenizer(locate_model(str(copy), settings), settings)
    assert tokenizer.chat_template == template


# Models of another kind.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "T5ForConditionalGeneration, an encoder-decoder",
        ),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM: it fills gaps"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "cannot write one"),
    ],
)
def test_a_model_that_does_not_continue_texts_is_refused_by_its_config(copy, changes, words):
    edit_config(copy, **changes)
    with pytest.raises(InvalidSettings, match=words) as caught:
        check(str(copy), {})
    assert "ForCausalLM" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_type_without_a_class_that_answers_is_refused_when_it_is_loaded(copy):
    edit_config(copy, model_type="vit", architectures=None)
    with pytest.raises(InvalidSettings, match="type 'vit', for which transformers") as caught:
        open_backbone(copy)
    assert len(str(caught.value)) < 400


def test_weights_that_would_be_random_are_refused(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layers.1.mlp" not in name}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotFound, match=r"lack 3 of its weights \(model\.layers\.1\.mlp\.down"):
        open_backbone(copy)


# Code of their own.

_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class HomemadeConfig(LlamaConfig):
    model_type = "homemade"

class HomemadeForCausalLM(LlamaForCausalLM):
    config_class = HomemadeConfig
"""


@pytest.fixture
def homemade(copy, monkeypatch, tmp_path):
    """The tiny Llama as a model that brings its own classes along."""
    cache = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(cache, str(tmp_path / "modules"))
    (copy / "modeling_homemade.py").write_text(_CODE)
    classes = {
        "AutoConfig": "modeling_homemade.HomemadeConfig",
        "AutoModelForCausalLM": "modeling_homemade.HomemadeForCausalLM",
    }
    edit_config(
        copy, model_type="homemade", architectures=["HomemadeForCausalLM"], auto_map=classes
    )
    return copy


def test_code_of_a_model_runs_only_where_the_user_allows_it(homemade, llama):
    with pytest.raises(InvalidSettings, match=r"modeling_homemade\.py.*trust_remote_code = true"):
        check(str(homemade), {})
    check(str(homemade), {"trust_remote_code": True})
    backbone = open_backbone(homemade, trust_remote_code=True)
    assert type(backbone.model).__name__ == "HomemadeForCausalLM"
    text = "What is 3+4?"
    assert generate(backbone, text, 8) == generate(open_backbone(llama), text, 8)


_NEVER_TRAINED = """
from transformers import LlamaModel

class NeverTrained(LlamaModel):
    def forward(self, *inputs, **options):
        if self.training:
            raise ValueError("marks are required when training")
        return super().forward(*inputs, **options)
"""


async def test_a_model_that_fails_in_training_is_refused_before_the_debates(homemade, tmp_path):
    file = homemade / "modeling_homemade.py"
    own = "\n    def __init__(self, config):\n        super().__init__(config)\n"
    own += "        self.model = NeverTrained(config)\n"
    file.write_text(_NEVER_TRAINED + _CODE + own)
    settings = {"device": "cpu", "dtype": "float32", "trust_remote_code": True}
    provider = connect(str(homemade), settings, tmp_path)
    try:
        with pytest.raises(Unsupported, match="cannot be trained: marks are required"):
            await provider.prepare_tuning(Hyperparameters())
    finally:
        await provider.close()


def test_code_that_transformers_has_itself_is_not_needed(copy):
    edit_config(copy, auto_map={"AutoModelForCausalLM": "modeling_old.OldForCausalLM"})
    check(str(copy), {})
    assert type(open_backbone(copy).model).__name__ == "LlamaForCausalLM"


def test_a_loader_that_asks_for_trust_becomes_our_refusal(llama):
    source = locate_model(str(llama), LocalSettings())
    with (
        pytest.raises(InvalidSettings, match="trust_remote_code = true in"),
        translate_errors(source, LocalSettings(), torch.float32),
    ):
        raise ValueError("Please pass the argument `trust_remote_code=True`")


def test_trust_and_quantization_of_a_stored_run_stay_as_they_are():
    settings = {"trust_remote_code": True, "quantization": "nf4", "revision": "abc"}
    assert output_settings(settings) == settings
