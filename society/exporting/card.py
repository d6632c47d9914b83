"""The card of an exported dataset: README.md with the front matter that `datasets` reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files

from evals import markdown
from store.ledger import Store

_GRAIN = {
    "questions": "question that was debated, with its gold answer where one is known",
    "turns": "response or summary: the prompt as sent and the text that came back",
    "verdicts": "answer: does it agree with the society's label, is it right",
    "votes": "question and round of a debate: the majority vote",
    "debates": "debate: the last vote and, in `turns`, all answers by round and agent",
    "datasets": "conversation that a model was trained on, with the `weight` of its messages",
    "models": "model, with its parent, dataset and job",
}
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
_TASKS = """
SELECT task, is_extra, count(*) FILTER (WHERE split = 'train') AS train,
    count(*) FILTER (WHERE split = 'eval') AS eval
FROM questions GROUP BY ALL ORDER BY is_extra, task
"""
_BASES = "SELECT DISTINCT provider FROM models ORDER BY provider"
_ARMS = "SELECT arm, kind, labels FROM arms ORDER BY position"
_LINEAGE = """
SELECT m.model_id, m.parent_id, m.dataset_id, d.examples, left(d.sha256, 12) AS sha256
FROM models AS m LEFT JOIN datasets AS d USING (dataset_id)
ORDER BY m.iteration NULLS FIRST, m.arm, m.role DESC, m.agent, m.model_id
"""


@dataclass(slots=True)
class DatasetConfig:
    """One configuration of the dataset: its files by split, and their size."""

    name: str
    kind: str
    files: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    bytes: int = 0

    def add(self, split: str, path: str, rows: int, size: int) -> None:
        """Add a file of `size` bytes."""
        self.files[split] = path
        self.rows += rows
        self.bytes += size

    @property
    def grain(self) -> str:
        """What one row stands for."""
        return _GRAIN[self.kind]


def write_card(store: Store, configs: list[DatasetConfig]) -> str:
    """The text of README.md. It names no license, which the publisher of the data chooses."""
    from jinja2 import Environment, StrictUndefined

    from society.config.schema import Config as Experiment

    run = store.run()
    # Undefined names raise, so that a card never has a silent gap.
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"cell": _escape_cell, "code": markdown.code_markdown}
    template = files("society.exporting").joinpath("card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        front_matter=_build_front_matter(run.name if run else "run", configs),
        run=run,
        experiment=Experiment.from_json(run.config) if run else None,
        version=version("multiagent-finetuning"),
        configs=configs,
        tasks=store.rows(_TASKS),
        bases=[base for (base,) in store.rows(_BASES)],
        arms=store.rows(_ARMS),
        lineage=store.rows(_LINEAGE),
    )


def _build_front_matter(name: str, configs: list[DatasetConfig]) -> str:
    from huggingface_hub import DatasetCardData

    # Viewers open the default configuration: whole debates say most about a run.
    default = next((c for c in configs if c.kind == "debates"), configs[0])
    total = sum(config.rows for config in configs)
    data = DatasetCardData(
        pretty_name=name,
        size_categories=next((size for top, size in _SIZES.items() if total < top), "1M<n<10M"),
        task_categories=["text-generation"],
        tags=["multiagent-finetuning", "debate", "synthetic"],
        configs=[
            {
                "config_name": config.name,
                **({"default": True} if config is default else {}),
                "data_files": [
                    {"split": split, "path": path} for split, path in config.files.items()
                ],
            }
            for config in configs
        ],
    )
    return str(data.to_yaml())


def _escape_cell(value: object) -> str:
    """A value for a cell of a Markdown table."""
    return "" if value is None else markdown.escape_markdown(str(value))
