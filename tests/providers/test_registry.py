import json

import pytest

from providers import registry
from providers.base import Provider
from providers.errors import BadRequest, InvalidSettings, ModelNotFound
from providers.types import Message, ModelRef, Request, Sampling


@pytest.mark.parametrize("address", ["", "gpt-4", "./model", "EMBEDDED:", "nowhere:model"])
def test_an_address_without_a_known_scheme_is_refused_with_the_known_ones(address):
    with pytest.raises(InvalidSettings, match=r"known schemes: embedded, local, scripted") as error:
        registry.check(address, {})
    assert repr(address) in str(error.value)


def test_a_third_party_adds_a_scheme_with_an_entry_point(tmp_path, monkeypatch):
    (tmp_path / "echoing.py").write_text(
        "from providers.scripted import ScriptedProvider\n"
        "def check(target, settings): pass\n"
        "def connect(target, settings, workdir):\n"
        "    return ScriptedProvider(lambda request: target, address='echo:' + target)\n"
    )
    info = tmp_path / "echoing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echoing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[society.providers]\necho = echoing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "echo" in registry.schemes()
    registry.check("echo:hello", {})
    provider = registry.connect("echo:hello", {}, tmp_path)
    assert isinstance(provider, Provider)
    assert provider.base.address == "echo:hello"


async def test_a_script_answers_by_request_key(tmp_path):
    script = tmp_path / "script.jsonl"
    script.write_text(json.dumps({"key": "k1", "text": "seven"}) + "\n")
    provider = registry.connect(f"scripted:{script}", {}, tmp_path)
    ask = ModelRef("m", f"scripted:{script}"), (Message("user", "how many?"),), Sampling()
    assert (await provider.complete(Request(*ask, key="k1"))).text == "seven"
    with pytest.raises(BadRequest, match="k2"):
        await provider.complete(Request(*ask, key="k2"))


def test_a_broken_script_is_named_with_its_line(tmp_path):
    script = tmp_path / "script.jsonl"
    script.write_text('{"key": "k1", "text": "seven"}\n{"key": "k2"}\n')
    with pytest.raises(InvalidSettings, match=r"script\.jsonl:2"):
        registry.check(f"scripted:{script}", {})
    with pytest.raises(ModelNotFound, match=r"missing\.jsonl"):
        registry.check("scripted:missing.jsonl", {})
