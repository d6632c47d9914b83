"""How much memory a model takes, and what is said if that is too much."""

import json
import shutil
from dataclasses import replace

import numpy
import pytest

from providers.errors import ModelNotFound, OutOfMemory
from providers.local import machine
from providers.local.factory import connect
from providers.local.memory import MemoryPlan, find_remedies, make_plan, measure_model
from providers.local.preflight import preflight_files
from providers.local.settings import LocalSettings
from providers.local.weights import count_stored_bytes, list_tensors
from providers.types import Hyperparameters, Need
from tests.providers.sparse_models import list_llama, save_sparse

# 2 layers of width 64 with an inner width of 128, and 1000 tokens. Their linear layers have
# 2 * (4 * 64 * 64 + 3 * 64 * 128) = 81,920 numbers, embeddings and head 2 * 1000 * 64 = 128,000,
# norms 2 * 64.
LAYERS, WIDTH, INNER, WORDS = 2, 64, 128, 1000
LINEAR, REST = 81_920, 128_128
# Rows and columns of all matrices: 2 * (4 * (64 + 64) + 3 * (64 + 128)).
FACTORS = 2_176
# Rows alone: 2 * (4 * 64 + 128 + 128 + 64).
ROWS = 1_152
CONFIG = {
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# Keys and values: 2 * 2 layers * 2 heads of 16 numbers.
SLOT = 128


def measure(folder, config=CONFIG, kind="BF16", **changes):
    tensors = list_llama(LAYERS, WIDTH, INNER, WORDS, kind) | changes
    save_sparse(folder / "model.safetensors", tensors)
    return measure_model(folder, None, config)


@pytest.mark.parametrize(
    ("dtype_bytes", "bits", "expected"),
    [
        (2, None, 2 * (LINEAR + REST)),
        (4, None, 4 * (LINEAR + REST)),
        (2, "int8", LINEAR + 4 * ROWS + 2 * REST),
        # Half a byte, a byte for 64 numbers, and 4 bytes for 256 of those: 0.515869140625.
        (2, "nf4", round(LINEAR * 0.515869140625 + 2 * REST)),
    ],
)
def test_weights_are_counted_as_they_will_be_held(dtype_bytes, bits, expected, tmp_path):
    assert measure(tmp_path).count_weight_bytes(dtype_bytes, bits) == expected


def test_a_plan_adds_training_tuned_models_and_a_batch(tmp_path):
    size = measure(tmp_path)
    lora = Hyperparameters(lora_rank=8)
    plan = MemoryPlan(2, None, 1000, lora, adapters=6, full_models=3)
    estimate = size.estimate(plan)
    assert estimate.weights == 2 * (LINEAR + REST)
    assert estimate.training == 16 * 8 * FACTORS
    assert estimate.tuned == 6 * 2 * 8 * FACTORS
    assert estimate.batch == 1000 * SLOT * 2
    assert estimate.total == estimate.weights + estimate.tuned + estimate.training

    full = size.estimate(replace(plan, hyperparameters=Hyperparameters(method="full")))
    assert full.training == 16 * (LINEAR + REST)
    # Six tuned models, three of them in memory, in float32.
    assert full.tuned == 3 * 4 * (LINEAR + REST)

    answers = size.estimate(replace(plan, hyperparameters=None, adapters=0))
    assert (answers.training, answers.tuned) == (0, 0)
    assert answers.total == answers.weights + answers.batch


def test_answering_and_training_are_told_apart_on_a_cpu(tmp_path):
    size = measure(tmp_path, CONFIG | {"intermediate_size": INNER})
    plan = make_plan(LocalSettings(), 4, Hyperparameters(lora_rank=8), longest=700, on_cpu=True)
    estimate = size.estimate(plan)
    kept = 2 * (16 * WIDTH + 6 * INNER)
    assert estimate.activations == 4 * 700 * kept
    assert estimate.fitting - estimate.answering == (
        estimate.training + estimate.activations - estimate.batch
    )
    again = replace(plan, hyperparameters=Hyperparameters(gradient_checkpointing=True))
    assert size.estimate(again).activations < estimate.activations
    # What is beyond the tokens that are kept is computed again, unless that is ruled out.
    longer = size.estimate(replace(plan, pass_tokens=2000)).activations
    assert 4 * 768 * kept < longer < 4 * 1000 * kept
    never = replace(
        plan, pass_tokens=2000, hyperparameters=Hyperparameters(gradient_checkpointing=False)
    )
    assert size.estimate(never).activations == 4 * 2000 * kept
    # More rows at a time bring nothing on a CPU, so that a cache is bounded by the weights.
    most = size.estimate(replace(plan, batch_tokens=1 << 30))
    assert most.batch == 750_000_000


def test_a_gguf_file_tells_by_its_shapes_what_a_token_takes(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    # Rows and columns, which the file names the other way round.
    shapes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "ffn_up": (96, 64)}
    for layer in range(2):
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.zeros(shape, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    size = measure_model(tmp_path, "small.gguf", {})
    assert size.slot_numbers == 2 * (32 + 32)
    assert size.kept_numbers == 2 * (16 * 64 + 6 * 96)


def test_experts_stay_as_they_are_when_the_rest_is_quantized(tmp_path):
    expert = {"model.layers.0.mlp.experts.0.up_proj.weight": ("BF16", [INNER, WIDTH])}
    more = measure(tmp_path, **expert).count_weight_bytes(2, "nf4")
    less = measure(tmp_path).count_weight_bytes(2, "nf4")
    assert more - less == 2 * INNER * WIDTH


def test_stored_formats(tmp_path):
    packed = CONFIG | {"quantization_config": {"quant_method": "gptq"}}
    size = measure(tmp_path, packed)
    assert size.count_weight_bytes(4, None) == (tmp_path / "model.safetensors").stat().st_size
    assert size.count_artifact_bytes(Hyperparameters()) is None
    unpacked = CONFIG | {"quantization_config": {"quant_method": "fp8"}}
    scale = {"model.layers.0.mlp.up_proj.weight_scale_inv": ("F32", [1, 1])}
    size = measure(tmp_path, unpacked, "F8_E4M3", **scale)
    assert size.count_weight_bytes(2, None) == 2 * (LINEAR + REST)


def test_a_tuned_model_on_the_disk(tmp_path):
    size = measure(tmp_path)
    assert size.count_artifact_bytes(Hyperparameters(lora_rank=8)) == 4 * 8 * FACTORS
    assert size.count_artifact_bytes(Hyperparameters(method="full")) == 4 * (LINEAR + REST)


def test_the_settings_make_the_plan():
    plan = make_plan(LocalSettings(quantization="nf4", max_batch_tokens=512, full_models=2), 2)
    assert (plan.quantization, plan.batch_tokens, plan.full_models) == ("nf4", 512, 2)
    assert plan.hyperparameters is None


def test_remedies_name_what_fits_with_its_size(tmp_path):
    # A model of 8,030 million numbers in shapes of Llama 3.1 8B, but with as many keys as queries.
    save_sparse(tmp_path / "model.safetensors", list_llama(32, 4096, 14_336, 128_256))
    config = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32}
    size = measure_model(tmp_path, None, config | {"num_key_value_heads": 8})
    # 32 * (4 * 4096^2 + 3 * 4096 * 14336) and 2 * 128256 * 4096 + 32 * 4096.
    linear, rest = 7_784_628_224, 1_050_804_224
    assert size.count_weight_bytes(4, None) == 4 * (linear + rest)
    plan = make_plan(LocalSettings(), 4, Hyperparameters(lora_rank=16), adapters=6)

    # bf16: weights of 17.67 GB, six adapters of 16 ranks on 2,818,048 rows and columns (0.54 GB),
    # a batch of 16,384 tokens of 2 * 32 layers * 8 heads * 128 numbers (2.15 GB).
    said = find_remedies(size, plan, 24 * 10**9)
    assert said.startswith("what would fit: dtype = 'bfloat16' (20.4 GB)")
    assert "quantization = 'int8' (" in said
    assert "quantization = 'nf4' (" in said
    said = find_remedies(size, plan, 10 * 10**9)
    assert "bfloat16" not in said
    assert "int8" not in said
    assert "quantization = 'nf4' (" in said
    assert "neither fewer bits" in find_remedies(size, plan, 10**9)

    full = replace(plan, hyperparameters=Hyperparameters(method="full"))
    # Weights of 35.34 GB, six adapters of 0.18, a batch of 4.29.
    said = find_remedies(size, full, 41 * 10**9)
    assert said.startswith("what would fit: finetune.method = 'lora' (40.7 GB)")
    assert "quantization = 'nf4' with finetune.method = 'lora'" in said


def test_the_files_of_an_index_count_once(tmp_path):
    save_sparse(tmp_path / "model-00001-of-00001.safetensors", {"a.weight": ("F32", [4, 4])})
    save_sparse(tmp_path / "consolidated.safetensors", {"b.weight": ("F32", [4, 4])})
    index = {"weight_map": {"a.weight": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [tensor.name for tensor in list_tensors(tmp_path, None)] == ["a.weight"]
    file = tmp_path / "model-00001-of-00001.safetensors"
    assert count_stored_bytes(tmp_path, None) == file.stat().st_size
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelNotFound, match="no index of weights"):
        list_tensors(tmp_path, None)


def test_a_file_that_was_cut_off_is_found_before_it_is_loaded(llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "cut")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(60_000)
    need = Need(finetune=False, ends_at=None)
    [found] = preflight_files(str(folder), {"device": "cpu"}, need, Hyperparameters()).findings
    assert found.level == "error"
    assert "its header tells of" in found.text


@pytest.fixture
def huge(llama, tmp_path):
    """The tiny Llama with 8 TB of weights more."""
    folder = shutil.copytree(llama, tmp_path / "huge")
    more = list_llama(2, 1_000_000, 4, 8)
    save_sparse(folder / "model.safetensors", more)
    return folder


def test_the_check_before_a_run_says_what_is_needed(llama, huge):
    need = Need(finetune=True, ends_at=None, adapters=4)
    settings = {"device": "cpu", "dtype": "bfloat16"}

    def find_memory(folder):
        report = preflight_files(str(folder), settings, need, Hyperparameters(lora_rank=4))
        return next(found for found in report.findings if found.check == "memory")

    fits = find_memory(llama)
    assert fits.level == "ok"
    # Keys and values of 16,384 tokens, 4 MB, and what Python and torch take.
    assert fits.text.startswith(
        "about 704 MB of memory are needed: 704 MB to answer (program 700 MB, weights 0 MB, "
    )
    assert "MB to train (program 700 MB" in fits.text
    found = find_memory(huge)
    # Two layers of 4 * 10^12 numbers.
    assert found.level == "warning"
    assert "weights 16000" in found.text
    assert "of memory are free" in found.text
    assert "take a smaller model" in found.remedy


async def test_weights_beyond_the_memory_are_not_loaded(huge, tmp_path, ask):
    provider = connect(str(huge), {"device": "cpu", "dtype": "bfloat16"}, tmp_path)
    try:
        with pytest.raises(OutOfMemory, match=r"take 16000\.. GB, and .* of memory are free"):
            await provider.complete(ask("Why?"))
    finally:
        await provider.close()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"dtype": "float32"}, 4), ({"dtype": "float16"}, 2), ({"device": "cuda"}, 2)],
)
def test_the_size_of_a_number_is_known_without_torch(settings, expected):
    assert machine.guess_dtype_bytes(LocalSettings(**settings)) == expected


def test_the_guess_for_this_cpu_is_what_will_be_chosen():
    from providers.local.hardware import choose_device, choose_dtype

    settings = LocalSettings(device="cpu")
    chosen = choose_dtype(settings, choose_device(settings))
    assert machine.guess_dtype_bytes(settings) == chosen.itemsize


def test_cards_are_asked_for_their_free_memory(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 40000\necho 20000\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    free, place = machine.find_free_memory(LocalSettings(device="cuda:1"))
    assert (free, place) == (20000 << 20, "memory of graphics card 1")
    assert machine.find_free_memory(LocalSettings(device="cuda:2")) is None
    spread = machine.find_free_memory(LocalSettings(device_map={"": 0}))
    assert spread is not None
    assert spread[0] > 60000 << 20
