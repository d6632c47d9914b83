"""Weights in fewer bits: trained, read again and answered with, as PEFT itself does it."""

import asyncio
import json
import shutil
from dataclasses import replace

import pytest
import torch

from providers.errors import InvalidSettings
from providers.local.backbone import Backbone
from providers.local.conversation import decode_answer
from providers.local.factory import check, connect
from providers.local.loading import silence_transformers
from providers.local.preflight import preflight_files
from providers.local.quantization import find_training_faults, read_format
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.types import Example, FinetuneSpec, Hyperparameters, Message, Need

END = 1
QUESTIONS = ["Why?", "What is 3+4*2?", "x" * 40, "Add 3 and 4, then multiply by 12."]
ANSWERS = ["ab3", "ab ab 1", "a", "12 ab"]
EXAMPLES = [
    Example((Message("user", question), Message("assistant", answer)), (1,))
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
]
HYPERPARAMETERS = Hyperparameters(
    epochs=30, batch_size=4, learning_rate=1e-2, lora_rank=8, schedule="constant"
)


def open_provider(folder, workdir, **settings):
    return connect(str(folder), {"device": "cpu", "dtype": "bfloat16", **settings}, workdir)


async def train(provider, name, hyperparameters=HYPERPARAMETERS):
    spec = FinetuneSpec(name, provider.base, EXAMPLES, name, hyperparameters)
    handle = await provider.submit(spec)
    while not (state := await provider.poll(handle)).done:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    assert state.status == "succeeded", state.error
    return state


async def answer_all(provider, ask, artifact=None):
    requests = (ask(question, artifact, max_tokens=8) for question in QUESTIONS)
    return [done.text for done in await asyncio.gather(*map(provider.complete, requests))]


def open_by_peft(folder, adapter, bits):
    """The same quantized base with the adapter on it, by transformers and PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }
    config = BitsAndBytesConfig(**(four if bits == "nf4" else {"load_in_8bit": True}))
    with silence_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.bfloat16,
            quantization_config=config,
            device_map={"": "cpu"},
            attn_implementation="eager",
        )
        for module in model.modules():
            # Its packing for this kind of CPU fails for layers narrower than 64.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return PeftModel.from_pretrained(model, str(adapter)).eval()


def generate_all(model, tokenizer):
    texts = []
    for question in QUESTIONS:
        said = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(
            said, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=8,
            )
        answer = out[0, ids.shape[1] :].tolist()
        texts.append(
            decode_answer(tokenizer, answer[: answer.index(END)] if END in answer else answer)
        )
    return texts


@pytest.mark.parametrize("bits", ["nf4", "int8"])
async def test_a_quantized_base_is_trained_and_answers_as_with_peft(bits, llama, tmp_path, ask):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoTokenizer

    provider = open_provider(llama, tmp_path, quantization=bits)
    try:
        before = await answer_all(provider, ask)
        state = await train(provider, "tuned")
        assert state.points[-1].loss < 0.1 < state.points[0].loss
        trained = await answer_all(provider, ask, "tuned")
        assert await answer_all(provider, ask) == before != trained
        weight = provider._models.base.model.model.layers[0].mlp.up_proj.weight
        assert weight.dtype == (torch.uint8 if bits == "nf4" else torch.int8)
    finally:
        await provider.close()
    assert trained == ANSWERS
    again = open_provider(llama, tmp_path, quantization=bits)
    try:
        assert await answer_all(again, ask, "tuned") == trained
    finally:
        await again.close()
    theirs = open_by_peft(llama, tmp_path / "tuned", bits)
    assert generate_all(theirs, AutoTokenizer.from_pretrained(llama)) == trained


async def test_quantized_weights_are_not_fully_finetuned(llama, tmp_path):
    pytest.importorskip("bitsandbytes")
    full = Hyperparameters(method="full")
    provider = open_provider(llama, tmp_path, quantization="nf4")
    [fault] = provider.validate_hyperparameters(full)
    assert "cannot change weights that are quantized (nf4)" in fault
    assert "finetune.method = 'lora'" in fault
    assert provider.validate_hyperparameters(Hyperparameters()) == ()
    await provider.close()
    need = Need(finetune=True, ends_at=None)
    found = preflight_files(str(llama), {"quantization": "nf4"}, need, full).findings
    assert [each.check for each in found if each.level == "error"] == ["recipe"]


def state_format(folder, target, **quantization):
    """A copy of the model at `folder` whose config.json states a format of its weights."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = quantization
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("gptq", r"stored as gptq.*gptqmodel, optimum; run `pip install gptqmodel optimum`"),
        ("awq", r"stored as awq.*`pip install gptqmodel`"),
        ("compressed-tensors", r"`pip install compressed-tensors`"),
    ],
)
def test_a_package_that_reads_the_format_is_asked_for(method, words, llama, tmp_path):
    folder = state_format(llama, tmp_path / "stored", quant_method=method)
    with pytest.raises(InvalidSettings, match=words):
        check(str(folder), {})


def test_quantized_weights_are_not_quantized_again(llama, tmp_path):
    folder = state_format(llama, tmp_path / "stored", quant_method="fp8")
    with pytest.raises(InvalidSettings, match=r"quantized already \(fp8\).*remove the setting"):
        check(str(folder), {"quantization": "int8"})


@pytest.mark.parametrize(
    ("stored", "method", "faults"),
    [
        ("vptq", "lora", 1),
        ("gptq", "lora", 0),
        ("gptq", "full", 1),
        ("fp8", "full", 0),
        (None, "full", 0),
    ],
)
def test_what_a_format_allows(stored, method, faults):
    found = find_training_faults(stored, LocalSettings(), Hyperparameters(method=method))
    assert len(found) == faults


def test_the_format_is_read_from_any_place():
    assert read_format({"quantization_config": {"load_in_4bit": True}}) == "bitsandbytes"
    assert read_format({"text_config": {"quantization_config": {"quant_method": "awq"}}}) == "awq"
    assert read_format({"quantization_config": None}) is None


@pytest.fixture
def fp8(llama, tmp_path):
    """The tiny Llama with its linear layers stored in blocks of 16 x 16 eight-bit floats."""
    from safetensors.torch import load_file, save_file

    block = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    folder = state_format(llama, tmp_path / "fp8", **block)
    stored = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        stored[name] = weight
        if name.endswith("proj.weight"):
            rows, columns = weight.shape
            blocks = weight.view(rows // 16, 16, columns // 16, 16).permute(0, 2, 1, 3)
            scale = blocks.abs().amax((2, 3)) / 448
            packed = (blocks / scale[:, :, None, None]).permute(0, 2, 1, 3)
            stored[name] = packed.reshape(rows, columns).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale.float()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load_weights(folder):
    settings = LocalSettings(device="cpu", dtype="float32")
    return dict(Backbone(locate_model(str(folder), settings), settings).model.named_parameters())


@pytest.mark.parametrize("method", ["lora", "full"])
async def test_eight_bit_floats_are_unpacked_and_trained(method, fp8, llama, tmp_path, ask):
    stored, plain = load_weights(fp8), load_weights(llama)
    for name, weight in plain.items():
        # Eight-bit floats of this kind have three bits after the first: 1/16 of rounding.
        assert stored[name].dtype == torch.float32
        assert torch.allclose(stored[name], weight, atol=weight.abs().max().item() / 16)
    provider = open_provider(fp8, tmp_path, dtype="float32")
    how = replace(HYPERPARAMETERS, method=method, learning_rate=3e-3)
    try:
        state = await train(provider, "tuned", how)
        assert state.points[-1].loss < 0.1
        assert await answer_all(provider, ask, "tuned") == ANSWERS
    finally:
        await provider.close()


async def test_four_bit_experts_of_gpt_oss_are_unpacked_and_kept(tmp_path, llama):
    import transformers
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "gpt-oss"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(llama / name, folder / name)
    config = transformers.GptOssConfig(
        vocab_size=262,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        eos_token_id=1,
        pad_token_id=0,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, width, outputs = weights.pop(name).shape
        # Every four bits 0010 are the number 1; a scale of 125 is 2 to the power of 125 - 127.
        shape = (experts, outputs, width // 32, 16)
        weights[f"{name}_blocks"] = torch.full(shape, 0x22, dtype=torch.uint8)
        weights[f"{name}_scales"] = torch.full(shape[:3], 125, dtype=torch.uint8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    stored = json.loads((folder / "config.json").read_text())
    stored["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(stored))

    settings = LocalSettings(device="cpu", dtype="bfloat16")
    backbone = Backbone(locate_model(str(folder), settings), settings)
    experts = backbone.model.model.layers[0].mlp.experts
    assert torch.equal(experts.down_proj, torch.full((2, 32, 32), 0.25, dtype=torch.bfloat16))
    # A full fine-tune is saved under the plain names, and is whole when it is read again.
    saved = tmp_path / "saved"
    backbone.model.save_pretrained(saved)
    backbone.tokenizer.save_pretrained(saved)
    assert read_format(json.loads((saved / "config.json").read_text())) is None
    again = Backbone(locate_model(str(saved), settings), settings)
    assert torch.equal(again.model.model.layers[0].mlp.experts.down_proj, experts.down_proj)
