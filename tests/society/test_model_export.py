"""`society export --model`: what it writes is read by the programs that it is for."""

import asyncio
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("peft")

from providers import registry
from providers.embedded import MODEL_DIR
from providers.types import Message, ModelRef, Request, Sampling
from society.cli import app
from store.ledger import Store
from tests.society.hub_server import TOKEN, serving_hub
from tests.society.whole_run import rows, start

EXPERIMENT = """
model = "embedded:"
iterations = 1
task.name = "arithmetic"
society = { agents = 2, others = "quoted" }
sampling = { max_tokens = 64, temperature = 0.6 }
train = { questions = 8 }
datasets = { max_examples = 8 }
evaluation = { questions = 4, decodings = ["sampled"] }
finetune = { learning_rate = 1e-2, generator_epochs = 2, critic_epochs = 1, lora_rank = 4 }
stop_if_unread = 0
"""
QUESTION = "What is the result of 3+4*5+6-7*8?"
CONVERTER = Path(__file__).parent / "gguf_converter.py"
ASK = """
import json, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, subfolder, prompt = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base)
model = PeftModel.from_pretrained(model, adapter, **({"subfolder": subfolder} if subfolder else {}))
tokenizer = AutoTokenizer.from_pretrained(base)
ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
out = model.generate(**ids, max_new_tokens=64, do_sample=False)
text = tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True)
print(json.dumps(text))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a finished run of two agents on the built-in model."""
    home = tmp_path_factory.mktemp("home")
    (home / "small.toml").write_text(EXPERIMENT)
    return start(home, home / "small.toml", name="small")


def export(folder, *arguments, status=0):
    command = ["export", folder.name, "--runs", str(folder.path.parent), "--model", *arguments]
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == status, done.output
    return done.output


def find_model(folder, agent=1, role="generator"):
    with Store.open(folder.database, read_only=True) as store:
        return next(m for m in store.models(1) if (m.agent, m.role) == (agent, role))


def answer(address, artifact=None, workdir=Path(), **settings):
    """What the local provider answers greedily."""

    async def ask():
        provider = registry.connect(
            address, {"threads": 1, "dtype": "float32", **settings}, workdir
        )
        try:
            model = ModelRef("m", address, artifact)
            greedy = Sampling(temperature=0.0, max_tokens=64)
            asked = Request(model, (Message("user", QUESTION),), greedy, "k")
            return (await provider.complete(asked)).text
        finally:
            await provider.close()

    return asyncio.run(ask())


def own_answer(folder):
    """What the generator of agent 1 answers in its own run."""
    return answer("embedded:", find_model(folder).artifact, folder.models)


def ask_peft(adapter, subfolder="", **environment):
    """What plain transformers and PEFT answer, in a process without this project."""
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": QUESTION}]
    prompt = AutoTokenizer.from_pretrained(MODEL_DIR).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK, MODEL_DIR, adapter, subfolder, prompt],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_adapters_with_card_start_line_and_recipes(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(folder, "adapters", "--out", out, "--base", "someone/built-in")
    names = ["a1-critic", "a1-generator", "a2-critic", "a2-generator"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*names, "README.md", "society.json", "vllm.sh", "merge.py", "mergekit.yml"]
    )
    config = json.loads((out / "a1-generator/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/built-in"
    facts = json.loads((out / "society.json").read_text())
    found = {each["name"]: each for each in facts["models"]}
    model = find_model(folder)
    assert found["a1-generator"]["sha256"] == model.sha256
    [(right, total)] = rows(
        folder,
        "SELECT accuracy, questions FROM accuracy WHERE iteration = 1 AND split = 'eval' "
        "AND measure = 'single' AND agent = 1 AND round = 1",
    )
    [measured] = found["a1-generator"]["accuracies"]
    assert (measured["accuracy"], measured["questions"]) == (right, total)
    card = (out / "a1-generator/README.md").read_text()
    for text in ("base_model: someone/built-in", "license: apache-2.0", "library_name: peft"):
        assert text in card
    assert model.sha256 in card
    assert f"{100 * right:.1f} (" in card
    assert "a2-critic" not in card
    assert "a2-critic" in (out / "README.md").read_text()

    line = (out / "vllm.sh").read_text()
    assert subprocess.run(["sh", "-n", out / "vllm.sh"], check=False).returncode == 0
    assert "vllm serve someone/built-in --enable-lora --max-lora-rank 8" in line
    assert all(f'{name}="$here"/{name}' in line for name in names)

    # The recipe makes a model that answers as any other folder does.
    monkeypatch.setattr(sys, "argv", ["merge.py", str(tmp_path / "mean"), str(MODEL_DIR)])
    runpy.run_path(str(out / "merge.py"), run_name="__main__")
    assert answer(f"local:{tmp_path / 'mean'}")
    assert f"{out.name}" not in (out / "mergekit.yml").read_text()
    assert (out / "mergekit.yml").read_text().count("weight: 0.25") == 4


def test_a_whole_model_answers_as_the_adapter_does(folder, tmp_path):
    export(folder, "merged", "--agent", 1, "--role", "generator", "--out", tmp_path / "merged")
    assert "library_name: transformers" in (tmp_path / "merged/README.md").read_text()
    assert str(MODEL_DIR) not in (tmp_path / "merged/README.md").read_text()
    assert answer(f"local:{tmp_path / 'merged'}") == own_answer(folder)


def test_a_gguf_file_and_its_modelfile(folder, tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    chosen = ["gguf", "--agent", "1", "--role", "generator", "--out", tmp_path / "out"]
    told = export(folder, *chosen, status=2)
    assert "git clone https://github.com/ggml-org/llama.cpp" in told
    assert not (tmp_path / "out").exists()

    # In place of llama.cpp's converter: a script of the same name and arguments.
    shutil.copy(CONVERTER, tmp_path / "convert_hf_to_gguf.py")
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    export(folder, *chosen)
    file = tmp_path / "out/a1-generator.gguf"
    # tests/providers/test_shipping.py asks one: engines have no pre-tokenizer for this vocabulary.
    assert len(gguf.GGUFReader(file).tensors) == 39
    text = (tmp_path / "out/a1-generator.Modelfile").read_text()
    assert "FROM ./a1-generator.gguf\nPARAMETER temperature 0.6\n" in text
    assert "PARAMETER repeat_penalty 1.0" in text
    assert "{{ range .Messages }}{{ if eq .Role" in text

    (tmp_path / "convert_hf_to_gguf.py").write_text("raise SystemExit('unknown tokenizer')")
    assert "unknown tokenizer" in export(folder, *chosen, "--force", status=1)


def test_a_pushed_folder_loads_from_the_hub_and_answers_alike(folder, tmp_path):
    words = ["export", "small", "--runs", folder.path.parent, "--model", "adapters"]
    words += ["--role", "generator", "--push", "someone/sums", "--base", "someone/built-in"]
    with serving_hub() as hub:
        home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}

        def push(*more, token=TOKEN):
            return subprocess.run(
                [sys.executable, "-m", "society", *words, *more, "--out", tmp_path / "out"],
                env={**os.environ, **home, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"},
                capture_output=True,
                text=True,
                check=False,
            )

        refused = push(token="hf_wrong")
        assert refused.returncode == 2, refused.stderr
        assert "does not let this token write to someone/sums" in refused.stderr
        assert "hf_wrong" not in refused.stdout + refused.stderr
        done = push("--force")
        assert done.returncode == 0, done.stderr
        # The client asks in passing what else it is run by.
        assert set(hub.unknown) <= {"GET /api/agent-harnesses"}
        assert hub.private == {"someone/sums": True}
        files = hub.repos["someone/sums"]
        assert {"README.md", "a1-generator/adapter_model.safetensors", "vllm.sh"} <= set(files)
        assert not any(str(folder.path).encode() in content for content in files.values())
        said = ask_peft("someone/sums", "a1-generator", **home, HF_TOKEN=TOKEN)
        assert said == own_answer(folder)
        hub.refuse = 503
        failed = push("--force")
    assert failed.returncode == 1
    assert "hf upload someone/sums" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["adapters", "--iteration", "7"], "has no such tuned model"),
        (["adapters", "--what", "turns"], "are of rows"),
        (["adapters", "--push", "nameless"], "no name of a repository"),
        (["merged", "--role", "summarizer"], "are of rows"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(folder, arguments, said):
    assert said in re.sub(r"\s+", " ", export(folder, *arguments, status=2))
    assert not (folder.path / "export").exists()
