"""Model files that would keep a reader busy for ever, or fill all memory, are refused in time."""

import json
import shutil
import struct

import pytest

from providers.errors import InvalidSettings, ModelNotFound
from providers.local.factory import check
from providers.local.file_checks import try_template
from providers.local.gguf_header import read_gguf_header


@pytest.fixture
def model(llama, tmp_path):
    """A copy of the tiny model, to be spoilt."""
    return shutil.copytree(llama, tmp_path / "model")


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for a in range(200) %}{% set ns.x = ns.x + ns.x %}"
        "{% endfor %}{{ ns.x }}",
    ],
    ids=["time", "memory"],
)
def test_a_template_without_an_end_is_given_up(model, template):
    (model / "chat_template.jinja").write_text(template)
    with pytest.raises(InvalidSettings, match="does not end within 4 s"):
        check(str(model), {})


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('only one system message') }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{{ strftime_now('%d') }}{{ messages | tojson(indent=2) }}{% break %}",
        "{{ unknown.of.nothing }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_what_ends_is_left_to_its_use(template):
    try_template(template, "a model")


def test_a_template_is_tried_wherever_it_is(model):
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    content = {"chat_template": [{"name": "default", "template": endless}]}
    (model / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(InvalidSettings, match="does not end"):
        check(str(model), {})


@pytest.mark.parametrize(
    "change",
    [{"num_hidden_layers": 10**9}, {"hidden_size": 10**7}, {"vocab_size": 10**12}],
    ids=lambda change: next(iter(change)),
)
def test_a_config_that_the_weights_cannot_fill_is_refused(model, change):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelNotFound, match="more than the weights beside it hold"):
        check(str(model), {})


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"a":' * 50_000, "too deeply nested"),
        ("[1]", "not a JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_broken_json_is_named(model, name, content, told):
    (model / name).write_text(content)
    with pytest.raises(ModelNotFound, match=told) as error:
        check(str(model), {})
    assert name in str(error.value)


def header(tensors: int, entries: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + rest


def text(words: bytes) -> bytes:
    return struct.pack("<Q", len(words)) + words


HEADERS = {
    "entries": (header(0, 2**60), "claims 1152921504606846976 entries"),
    "tensors": (header(2**60, 0), "claims 1152921504606846976 tensors"),
    "key": (header(0, 1, struct.pack("<Q", 2**50) + bytes(99)), "bytes of a key"),
    "text": (
        header(0, 1, text(b"k") + struct.pack("<IQ", 8, 2**63) + bytes(99)),
        "bytes of a text",
    ),
    "list": (header(0, 1, text(b"k") + struct.pack("<IIQ", 9, 4, 2**61)), "bytes of a list"),
    "texts": (header(0, 1, text(b"k") + struct.pack("<IIQ", 9, 8, 2**61)), "list items"),
    "nested": (
        header(0, 1, text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9),
        "arrays",
    ),
    "kind": (header(0, 1, text(b"k") + struct.pack("<I", 77)), "unknown kind 77"),
    "dimensions": (header(1, 0, text(b"t") + struct.pack("<I", 2**31) + bytes(99)), "dimensions"),
    "cut": (header(0, 1, text(b"k"))[:-3] + b"", "header|bytes"),
    "version": (header(0, 0, version=1), "version 1"),
    "empty": (b"", "does not begin with GGUF"),
    "other": (b"PK\x03\x04" + bytes(99), "does not begin with GGUF"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_gguf_file_that_claims_more_than_it_holds_is_refused(tmp_path, kind):
    pytest.importorskip("gguf")
    content, told = HEADERS[kind]
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ModelNotFound, match=told):
        check(str(tmp_path / "m.gguf"), {})


def test_a_header_of_either_byte_order_is_walked(tmp_path):
    gguf = pytest.importorskip("gguf")
    for order in (gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG):
        path = tmp_path / f"{order.name}.gguf"
        writer = gguf.GGUFWriter(path, "llama", endianess=order)
        writer.add_array("words", ["a", "bc", ""])
        writer.add_array("numbers", [1, 2, 3])
        writer.add_chat_template("{{ messages }}")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        header = read_gguf_header(path)
        assert header.template == "{{ messages }}"
