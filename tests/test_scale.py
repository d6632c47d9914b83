"""docs/scale.md has the tables that its script prints, and the script's model is sound."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOC = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
_SPEC = spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
scale = module_from_spec(_SPEC)
# Dataclasses look their module up by name.
sys.modules["scale"] = scale
_SPEC.loader.exec_module(scale)


def test_the_page_has_the_tables_of_the_script(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scale.py"])
    assert scale.main() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) > 40
    missing = [line for line in lines if line not in DOC.splitlines()]
    assert missing == []


@pytest.mark.parametrize(
    ("model", "prompt", "answer", "published"),
    [(0, 500, 2000, 17_660), (0, 128, 2048, 22_714), (1, 500, 2000, 5_222), (1, 128, 2048, 6_651)],
)
def test_two_constants_give_the_published_rates_of_other_lengths(model, prompt, answer, published):
    """NVIDIA's table, in FP8 and without adapters, on one GPU and on two."""
    server = scale.MODELS[model]
    share = scale._BF16 * scale._LORA * (server.gpus / (1, 2)[model])
    rate = answer * share**-1 / server.answer_s(prompt, answer)
    assert rate == pytest.approx(published, rel=0.16)


def test_more_gpus_never_take_longer_and_more_questions_cost_in_proportion():
    for model in scale.MODELS:
        times = [scale.Cost(model, gpus, 1000).seconds for gpus in (4, 8, 16, 64)]
        assert times == sorted(times, reverse=True)
        few, many = (scale.Cost(model, 8, count) for count in (1_000, 10_000))
        assert many.seconds == pytest.approx(10 * few.seconds)


def test_debates_are_shared_evenly_by_many_simulated_servers(capsys):
    scale.simulate(24, 4, speed=1000.0)
    said = capsys.readouterr().out
    [(least, most)] = re.findall(r"(\d+) on the least used, (\d+) on the most used", said)
    assert int(least) >= 0.75 * int(most)
