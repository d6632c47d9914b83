"""The card of exported models: README.md with the front matter that the hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from evals import markdown
from evals.metrics import MEASURES, read_society_accuracies
from evals.stored_run import read_arms
from society.exporting.model_choice import ExportedModel, ExportedSociety
from society.runs.summary import format_percent
from store.ledger import Store

_LIBRARIES = {"adapters": "peft", "merged": "transformers", "gguf": "gguf"}
_OWN_ACCURACY = """
SELECT decoding, accuracy, ci_low, ci_high, questions
FROM accuracy
WHERE measure = 'single' AND split = 'eval' AND iteration = $iteration AND arm = $arm
    AND agent IS NOT DISTINCT FROM $agent
    AND task IN (SELECT task FROM questions WHERE NOT is_extra)
    AND round = if($role = 'generator', 1, (
        SELECT max(round) FROM votes WHERE arm = $arm AND split = 'eval'))
ORDER BY decoding = 'greedy'
"""
_TASKS = """
SELECT task, count(*) FILTER (WHERE split = 'train'), count(*) FILTER (WHERE split = 'eval')
FROM questions WHERE NOT is_extra GROUP BY task ORDER BY task
"""


def describe_models(store: Store, society: ExportedSociety) -> list[dict[str, object]]:
    """What is known of every model: its data, its hash, and its accuracy alone.

    Accuracies are shares 0..1 with their 95 % interval, of the agent in the round that the model
    answers in; none without gold.
    """
    return [_describe_model(store, society, each) for each in society.models]


def _describe_model(
    store: Store, society: ExportedSociety, each: ExportedModel
) -> dict[str, object]:
    model = each.model
    dataset = None if model.dataset_id is None else store.dataset(model.dataset_id)
    arm = next((arm for arm in read_arms(store) if arm.name == society.arm), None)
    # A model that was distilled in an iteration has answered no question.
    answers = each.agent or arm is None or arm.models == "shared"
    asked = {
        "iteration": society.iteration,
        "arm": society.arm,
        # A model that all agents share has the mean over them.
        "agent": each.agent or None,
        "role": each.role,
    }
    names = ("decoding", "accuracy", "low", "high", "questions")
    return {
        "name": each.name,
        "model_id": model.model_id,
        "agent": each.agent,
        "role": each.role,
        "trained_in_iteration": model.iteration,
        "parent": model.parent_id,
        "sha256": model.sha256,
        "dataset": model.dataset_id,
        "dataset_sha256": None if dataset is None else dataset.sha256,
        "examples": None if dataset is None else dataset.examples,
        "accuracies": [
            dict(zip(names, row, strict=True))
            for row in (store.rows(_OWN_ACCURACY, asked) if answers else ())
        ],
    }


def write_model_card(
    store: Store, society: ExportedSociety, models: Sequence[Mapping[str, object]], form: str
) -> str:
    """The text of README.md for these `models` (`describe_models`), exported in a `form`."""
    from jinja2 import Environment, StrictUndefined

    run = store.run()
    config = society.config.for_arm(society.arm)
    arm = next(each for each in read_arms(store) if each.name == society.arm)
    # Undefined names raise, so that a card never has a silent gap.
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["cell"] = _escape_cell
    environment.filters["interval"] = _format_interval
    template = files("society.exporting").joinpath("model_card.md.jinja").read_text("utf-8")
    return environment.from_string(template).render(
        front_matter=_build_front_matter(society, form),
        version=version("multiagent-finetuning"),
        society=society,
        run=run,
        form=form,
        models=models,
        base=_name_base(society),
        license=society.origin.license,
        finetune=config.finetune,
        config=society.config,
        arm=arm,
        uses_gold=arm.labels == "gold",
        tasks=store.rows(_TASKS),
        accuracies=[
            (row.iteration, row.decoding, *(format_percent(row.rate(each)) for each in MEASURES))
            for row in read_society_accuracies(store, society.arm)
            if row.iteration in (0, society.iteration)
        ],
    )


def _build_front_matter(society: ExportedSociety, form: str) -> str:
    from huggingface_hub import ModelCardData

    origin = society.origin
    data: dict[str, Any] = {
        "library_name": _LIBRARIES[form],
        "pipeline_tag": "text-generation",
        "tags": ["multiagent-finetuning", "debate", *(["lora"] if form == "adapters" else [])],
    }
    if not origin.local:
        data["base_model"] = origin.name
        # The hub draws a model's family tree by this.
        data["base_model_relation"] = "adapter" if form == "adapters" else "finetune"
    if origin.license is not None:
        data["license"] = origin.license
    return str(ModelCardData(**data).to_yaml())


def _name_base(society: ExportedSociety) -> str:
    """The base in a sentence; of a folder only its name, since the rest is of this machine."""
    origin = society.origin
    if origin.local:
        return f"{markdown.code_markdown(PurePath(origin.name).name)} (a folder)"
    revision = "" if origin.revision is None else f" at revision {origin.revision}"
    return f"{markdown.code_markdown(origin.name)}{revision}"


def _escape_cell(value: object) -> str:
    return "" if value is None else markdown.escape_markdown(str(value))


def _format_interval(found: Mapping[str, Any]) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['accuracy']:.1f} ({low:.1f}–{high:.1f}) {found['decoding']}"
