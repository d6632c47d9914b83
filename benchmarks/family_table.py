"""What `benchmarks/families.py` found out about model families, and the table in docs/models.md."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "models.md"
MARKS = ("<!-- families: begin -->", "<!-- families: end -->")

# How a family does, from best to worst.
OUTCOMES = {
    "fast": "works fast",
    "reference": "works by the reference path",
    "base": "answers, and is refused before training",
    "refused": "refused before the first call",
    "unbuilt": "not tried: no tiny model can be built",
    "wrong": "WRONG",
}
WORKS = "works"
"""What `Result.experts` says if adapters on the experts answer as they should."""

_IMAGE = "it answers about an image, and nothing without one"
_TIMM = "its image tower needs the package timm"
_DRAFT = "it drafts tokens for another model, whose keys it reads"
# In words, where an error message says less: why a family is refused, or cannot be built.
REASONS = {
    "blip": _IMAGE,
    "blip-2": _IMAGE,
    "blt": "`generate` of this version of transformers cannot make its cache",
    "diffusion_gemma": "it denoises whole blocks of tokens and does not continue a text",
    "evolla": "it answers about proteins, and transformers does not load it for texts",
    "fast_vlm": _TIMM,
    "gemma3n": f"{_TIMM}; its text model is `gemma3n_text`",
    "gemma4_assistant": _DRAFT,
    "gemma4_unified_assistant": _DRAFT,
    "idefics": _IMAGE,
    "instructblip": _IMAGE,
    "instructblipvideo": "it answers about a video, and nothing without one",
    "kosmos-2": _IMAGE,
    "musicgen": "it writes sound",
    "musicgen_melody": "it writes sound",
    "perception_lm": _TIMM,
    "pi0": "it moves a robot",
}


@dataclass
class Result:
    """What happened to one family.

    `experts` is "" for a family without fused experts, `WORKS`, or why they get no adapters.
    """

    family: str
    outcome: str
    reason: str = ""
    decoder: str = ""
    adapters: str = ""
    experts: str = ""
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def read_results(file: Path) -> dict[str, Result]:
    """The results of an earlier sweep."""
    if not file.is_file():
        return {}
    lines = (json.loads(line) for line in file.read_text("utf-8").splitlines())
    return {line["family"]: Result(**line) for line in lines}


def describe(result: Result) -> str:
    """One line about a result."""
    ways = f"{result.decoder}/{result.adapters}".strip("/")
    notes = "; ".join(result.faults) or result.reason
    experts = result.experts and f"[experts: {result.experts}] "
    return (
        f"{result.family:24} {result.outcome:10} {ways:12} {result.seconds:5.1f} s  "
        f"{experts}{notes}"
    )


def write_table(results: Sequence[Result]) -> None:
    """Put the table between the marks in docs/models.md."""
    begin, end = MARKS
    text = DOCUMENT.read_text("utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    table = f"{describe_making(results)}\n\n{format_table(results)}"
    DOCUMENT.write_text(f"{before}{begin}\n{table}\n{end}{after}", "utf-8")


def describe_making(results: Sequence[Result]) -> str:
    """When the table was made, and of what."""
    day = subprocess.run(
        ["git", "log", "-1", "--format=%cs"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    made_with = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft", "torch"))
    counts = {outcome: sum(r.outcome == outcome for r in results) for outcome in OUTCOMES}
    said = ", ".join(f"{OUTCOMES[outcome]} {count}" for outcome, count in counts.items() if count)
    return (
        f"All {len(results)} families were tried in one sweep at a commit of {day}, with "
        f"{made_with}: {said}."
    )


def format_table(results: Sequence[Result]) -> str:
    """The families by outcome, as Markdown; refusals each with their reason."""
    parts: list[str] = []
    for outcome, title in OUTCOMES.items():
        found = [result for result in results if result.outcome == outcome]
        if not found:
            continue
        parts.append(f"**{title[0].upper()}{title[1:]}** ({len(found)})\n")
        if outcome in ("fast", "reference"):
            parts.append(f"{_list_names(found)}\n")
            continue
        parts += _format_reasons([(r.family, _explain(r)) for r in found])
    mixtures = [result for result in results if result.experts]
    if mixtures:
        working = [result for result in mixtures if result.experts == WORKS]
        parts.append(
            f"**`lora_experts = true`**: adapters on the experts are trained, loaded and answer as "
            f"they should in {len(working)} of {len(mixtures)} families that have fused experts\n"
        )
        parts.append(f"{_list_names(working)}\n")
        others = [(r.family, r.experts) for r in mixtures if r.experts != WORKS]
        parts += _format_reasons(others) if others else []
    return "\n".join(parts)


def _list_names(results: Sequence[Result]) -> str:
    return ", ".join(f"`{result.family}`" for result in results)


def _format_reasons(rows: Sequence[tuple[str, str]]) -> list[str]:
    clean = [(name, why.replace("|", "/").replace("\n", " ")) for name, why in rows]
    return ["| family | why |\n|---|---|", *(f"| `{name}` | {why} |" for name, why in clean), ""]


def _explain(result: Result) -> str:
    if result.faults:
        return "; ".join(result.faults)
    return REASONS.get(result.family, result.reason)
