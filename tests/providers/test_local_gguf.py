"""A GGUF file as the base: checked by its metadata, then answering and training like any other."""

import asyncio
import json
from pathlib import Path

import pytest

from providers import registry
from providers.base import FileFacts
from providers.errors import InvalidSettings, ModelNotFound
from providers.local.backbone import Backbone
from providers.local.factory import check, connect
from providers.local.gguf_header import read_gguf_header
from providers.local.models import LocalModels
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.opening import listen_to_openings
from providers.types import Example, FinetuneSpec, Hyperparameters, Message

gguf = pytest.importorskip("gguf")


def write_gguf(path, llama, template: bool = True, eot: str | None = None):
    """Write the tiny Llama as a GGUF file, which may state an end of turns."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama)
    model = AutoModelForCausalLM.from_pretrained(llama)
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if eot:
        writer.add_eot_token_id(tokenizer.convert_tokens_to_ids(eot))
    if template:
        writer.add_chat_template(tokenizer.chat_template)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(renamed(name), torch.Tensor(interleaved(name, tensor, config)).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def renamed(name: str) -> str:
    """GGUF's name of a Llama weight."""
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def interleaved(name, tensor, config):
    """GGUF stores the rotary halves of queries and keys interleaved."""
    if "q_proj" not in name and "k_proj" not in name:
        return tensor
    heads = config.num_attention_heads
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, tensor.shape[1])
    return halves.swapaxes(1, 2).reshape(tensor.shape).contiguous()


async def test_a_gguf_file_answers_like_the_folder_and_trains(llama, tmp_path, ask, capfd):
    write_gguf(tmp_path / "tiny.gguf", llama)
    check(str(tmp_path / "tiny.gguf"), {})
    check(str(tmp_path), {"gguf_file": "tiny.gguf"})
    folder = connect(str(llama), {"threads": 1}, tmp_path / "work")
    expected = await folder.complete(ask("7*8"))
    await folder.close()
    provider = connect(str(tmp_path / "tiny.gguf"), {"threads": 1}, tmp_path / "work")
    assert (await provider.complete(ask("7*8"))).text == expected.text
    example = Example((Message("user", "1+1"), Message("assistant", "2")), (1,))
    spec = FinetuneSpec("tuned", provider.base, [example] * 4, "0" * 64, Hyperparameters(epochs=1))
    handle = await provider.submit(spec)
    for _ in range(1000):
        state = await provider.poll(handle)
        if state.done:
            break
        await asyncio.sleep(0.02)
    assert state.status == "succeeded", state.error
    await provider.close()
    # No progress bar over the run's own display.
    assert "quantizing" not in capfd.readouterr().err


def test_the_header_says_what_an_experiment_has_to_fit(llama, tmp_path):
    write_gguf(tmp_path / "facts.gguf", llama)
    config = json.loads((Path(llama) / "config.json").read_text())
    from_file = registry.read_facts(f"local:{tmp_path / 'facts.gguf'}", {})
    assert from_file == registry.read_facts(f"local:{llama}", {})
    assert from_file.context_tokens == config["max_position_embeddings"]
    assert registry.read_facts("openai:m", {}) == FileFacts()


def test_a_gguf_file_without_chat_template(llama, tmp_path):
    write_gguf(tmp_path / "plain.gguf", llama, template=False)
    with pytest.raises(InvalidSettings, match="chat template"):
        check(str(tmp_path / "plain.gguf"), {})


def test_the_end_of_turns_of_a_gguf_file_ends_answers(llama, tmp_path):
    write_gguf(tmp_path / "turns.gguf", llama, eot="<|user|>")
    settings = LocalSettings(device="cpu")
    backbone = Backbone(locate_model(str(tmp_path / "turns.gguf"), settings), settings)
    names = backbone.tokenizer.convert_ids_to_tokens(sorted(backbone.ends))
    assert names == ["<|end|>", "<|user|>"]


def test_our_header_says_what_the_package_reads(llama, tmp_path):
    write_gguf(tmp_path / "one.gguf", llama, eot="<|user|>")
    header, reader = read_gguf_header(tmp_path / "one.gguf"), gguf.GGUFReader(tmp_path / "one.gguf")
    assert [(t.name, t.shape, t.stored_bytes) for t in header.tensors] == [
        (t.name, tuple(t.shape), t.n_bytes) for t in reader.tensors
    ]
    read = {key: field.contents() for key, field in reader.fields.items()}
    lists = {key for key, value in header.values.items() if value is None}
    assert lists == {key for key, value in read.items() if isinstance(value, list)}
    for key in header.values.keys() - lists:
        assert header.values[key] == read[key]


def test_a_changed_file_is_read_again_and_a_cut_one_refused(llama, tmp_path):
    path = tmp_path / "changing.gguf"
    write_gguf(path, llama)
    check(str(path), {})
    write_gguf(path, llama, template=False)
    with pytest.raises(InvalidSettings, match="no chat template"):
        check(str(path), {})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelNotFound, match="ends at byte"):
        check(str(path), {})


def test_the_steps_of_opening_are_told(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_gguf(tmp_path / "told.gguf", llama)
    settings = LocalSettings(device="cpu")
    source = locate_model(str(tmp_path / "told.gguf"), settings)

    def list_steps() -> list[str | None]:
        told = []
        with listen_to_openings(lambda step: told.append(step and str(step))):
            models = LocalModels(source, settings, tmp_path)
            assert models.base
            models.check_tuning(Hyperparameters())
        return told

    assert list_steps() == [
        "told.gguf: reading the tokenizer (step 1 of 3)",
        "told.gguf: unpacking the weights (step 2 of 3)",
        "told.gguf: comparing its answers with those of transformers, once for this model "
        "(step 3 of 3)",
        None,
        "told.gguf: trying a training step of an adapter (step 1 of 2)",
        "told.gguf: comparing answers with adapters with those of PEFT, once for this model "
        "(step 2 of 2)",
        None,
    ]
    # What was found is kept.
    assert list_steps()[:3] == [
        "told.gguf: reading the tokenizer (step 1 of 2)",
        "told.gguf: unpacking the weights (step 2 of 2)",
        None,
    ]
