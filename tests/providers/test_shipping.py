"""Tuned models for other engines: merged, converted, and asked as the chat template asks."""

import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")

from providers import registry
from providers.errors import InvalidSettings, TrainingFailed, Unsupported
from providers.shipping.chat_format import read_turns
from providers.shipping.gguf_converter import convert_to_gguf, find_converter
from providers.shipping.merge_recipe import write_mergekit_recipe
from providers.shipping.modelfile import write_modelfile
from providers.shipping.start_line import write_start_script
from providers.shipping.turns import TurnFormat, find_turns
from providers.types import ModelRef
from tests.providers.published_templates import FAMILIES, make_family_tokenizer

ROOT = Path(__file__).parents[2]
CONVERTER = ROOT / "tests/society/gguf_converter.py"


async def answers(address, workdir, ask, artifact=None):
    provider = registry.connect(address, {"threads": 1, "dtype": "float32"}, workdir)
    try:
        return [
            (await provider.complete(ask(text, artifact, key=text))).text
            for text in ("hello there", "a b c", "the sum")
        ]
    finally:
        await provider.close()


async def test_a_merged_model_and_its_gguf_file_answer_as_the_adapter(
    llama, adapters, tmp_path, ask, monkeypatch
):
    provider = registry.connect(f"local:{llama}", {"threads": 1, "dtype": "float32"}, adapters)
    whole = tmp_path / "whole"
    whole.mkdir()
    await provider.merge_model(ModelRef("a1", f"local:{llama}", "a1"), whole)
    with pytest.raises(Unsupported, match="base model"):
        await provider.merge_model(provider.base, whole)
    await provider.close()
    tuned = await answers(f"local:{llama}", adapters, ask, "a1")
    assert tuned != await answers(f"local:{llama}", adapters, ask)
    assert await answers(f"local:{whole}", tmp_path, ask) == tuned

    pytest.importorskip("gguf")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    file = tmp_path / "whole.gguf"
    convert_to_gguf([sys.executable, str(CONVERTER)], whole, file, "f32")
    assert await answers(f"local:{file}", tmp_path, ask) == tuned


def test_the_converter_is_found_or_its_remedy_is_named(tmp_path):
    with pytest.raises(InvalidSettings, match="git clone"):
        find_converter({"PATH": str(tmp_path)})
    with pytest.raises(InvalidSettings, match="LLAMA_CPP_DIR = "):
        find_converter({"LLAMA_CPP_DIR": str(tmp_path)})
    script = tmp_path / "convert_hf_to_gguf.py"
    shutil.copy(CONVERTER, script)
    assert find_converter({"LLAMA_CPP_DIR": str(tmp_path)}) == [sys.executable, str(script)]
    script.chmod(0o755)
    assert find_converter({"PATH": str(tmp_path)}) == [str(script)]
    script.write_text("import sys; print('BPE pre-tokenizer was not recognized'); sys.exit(1)")
    with pytest.raises(TrainingFailed, match="pre-tokenizer was not recognized"):
        convert_to_gguf([sys.executable, str(script)], tmp_path, tmp_path / "out.gguf", "f32")


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def render_jinja(template):
    from jinja2 import Environment

    compiled = Environment().from_string(template)

    def render(conversation, asks):
        messages = [{"role": role, "content": content} for role, content in conversation]
        return compiled.render(messages=messages, add_generation_prompt=asks)

    return render


def test_the_turns_of_a_template_are_found_and_written_in_go():
    asks = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    found = find_turns(render_jinja(CHATML + asks))
    assert found == TurnFormat(
        "",
        {
            role: (f"<|im_start|>{role}\n", "<|im_end|>\n")
            for role in ("user", "assistant", "system")
        },
        "<|im_start|>assistant\n",
    )
    text = write_modelfile("x.gguf", found, {"temperature": 0.5, "top_k": 0}, ["<|im_end|>"])
    assert 'PARAMETER temperature 0.5\nPARAMETER top_k 0\nPARAMETER stop "<|im_end|>"\n' in text
    branch = '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
    assert f'TEMPLATE """{{{{ range .Messages }}}}{branch}{{{{ else if eq .Role "user" }}' in text


def test_the_turns_of_published_templates(tmp_path):
    found = {}
    for name in FAMILIES:
        make_family_tokenizer(name).save_pretrained(tmp_path / name)
        found[name] = read_turns(tmp_path / name)
    # These write earlier messages otherwise than the last, or end a text that asks for nothing.
    irregular = {name for name, (turns, _) in found.items() if turns is None}
    assert irregular == {"qwen3", "gpt_oss", "phi4_mini"}
    turns, stops = found["qwen2_5"]
    assert stops == ("<|endoftext|>", "<|im_end|>")
    assert turns.default.startswith("You are Qwen")
    text = write_modelfile("x.gguf", turns, {})
    assert "{{ if not .System }}You are Qwen, created by Alibaba Cloud." in text
    # The engine writes the token that begins a text.
    assert found["llama3_2"][0].start.startswith("<|start_header_id|>system")


def test_a_template_that_does_more_has_no_turns():
    # It drops what earlier answers thought, and names the number of messages.
    assert find_turns(render_jinja("{{ messages | length }}" + CHATML)) is None
    assert "Compare its prompts" in write_modelfile("x.gguf", None, {})


def test_the_lines_name_every_adapter():
    text = write_start_script("org/base", {"a1": "a1", "it's": "it's"}, 20)
    assert "--max-lora-rank 32" in text
    assert "--max-loras 2" in text
    assert "'it'\"'\"'s'=\"$here\"/" in text
    with pytest.raises(InvalidSettings, match="lora_rank = 600"):
        write_start_script("org/base", {"a1": "."}, 600)
    recipe = write_mergekit_recipe("org/base", ["a1", "a2"])
    assert '- model: "org/base+./a1"' in recipe
    assert recipe.count("weight: 0.5") == 2
