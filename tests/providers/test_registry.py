import json
from datetime import UTC, datetime

import pytest

from providers import registry
from providers.base import PricedModel, Provider, ProviderInfo
from providers.errors import BadRequest, InvalidSettings, ModelNotFound
from providers.extras import PACKAGES
from providers.preflight import preflight_model
from providers.types import Hyperparameters, Message, ModelRef, Need, Request, Sampling


@pytest.mark.parametrize("address", ["", "gpt-4", "./model", "EMBEDDED:", "nowhere:model"])
def test_an_address_without_a_known_scheme_is_refused_with_the_known_ones(address):
    with pytest.raises(InvalidSettings, match=r"known schemes: embedded, local, scripted") as error:
        registry.check(address, {})
    assert repr(address) in str(error.value)


def install(site, monkeypatch, name: str, code: str, entry_point: str) -> None:
    """A package of one module, `name`, that registers `entry_point`."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[society.providers]\n{entry_point}\n")
    monkeypatch.syspath_prepend(str(site))


def test_a_third_party_adds_a_scheme_with_an_entry_point(tmp_path, monkeypatch):
    code = (
        "from providers.scripted import ScriptedProvider\n"
        "def check(target, settings): pass\n"
        "def connect(target, settings, workdir):\n"
        "    return ScriptedProvider(lambda request: target, address='echo:' + target)\n"
    )
    install(tmp_path, monkeypatch, "echoing", code, "echo = echoing")
    assert "echo" in registry.schemes()
    registry.check("echo:hello", {})
    provider = registry.connect("echo:hello", {}, tmp_path)
    assert isinstance(provider, Provider)
    assert provider.base.address == "echo:hello"
    assert registry.info("echo:hello") == ProviderInfo()
    assert registry.output_settings("echo:hello", {"speed": 2}) == {"speed": 2}
    assert registry.gives_scores("echo:hello", {})
    assert registry.locate_price("echo:hello") == PricedModel("hello")


def test_an_entry_point_that_opens_no_provider_is_named(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "mute", "check = None\n", "mute = mute")
    with pytest.raises(InvalidSettings, match=r"mute.*register a providers\.base\.ProviderFactory"):
        registry.check("mute:x", {})


@pytest.mark.parametrize("scheme", ["embedded", "local", "scripted", "replay", "openai"])
def test_the_table_says_what_a_built_in_scheme_needs(scheme):
    info = registry.info(f"{scheme}:")
    assert set(info.packages) == set(PACKAGES[info.extra] if info.extra else ())
    assert info.free == (scheme != "openai")
    assert info.in_process == (scheme in ("embedded", "local"))
    assert registry.info("openai+http://127.0.0.1:1/v1:m").batches


async def test_what_is_missing_is_found_before_anything_is_opened(tmp_path, monkeypatch):
    code = (
        "from providers.base import ProviderFactory, ProviderInfo\n"
        "FACTORY = ProviderFactory(None, None, ProviderInfo(packages=('json', 'absent_one')))\n"
    )
    install(tmp_path, monkeypatch, "lacking", code, "lacking = lacking")
    need = Need(finetune=False, ends_at=datetime.now(UTC))
    report = await preflight_model("lacking:x", {}, tmp_path, need, [Hyperparameters()])
    [finding] = report.findings
    assert (finding.level, finding.check) == ("error", "packages")
    assert finding.text == "needs packages that are not installed: absent_one"
    assert finding.remedy == "pip install absent_one"


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
