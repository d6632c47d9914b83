"""A small experiment at a server of OpenAI's shape, run in this process."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from society.cli import errors
from society.config import load as experiments
from society.method.experiment import resolve
from society.method.progress import Event, Note
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store

PROMPT_USD, ANSWER_USD = 1.0, 10.0
"""Per million tokens."""

_EXPERIMENT = """
model = "openai+{url}:{model}"
iterations = 0
budget_usd = 1.0
[task]
name = "arithmetic"
[society]
agents = 2
rounds = 2
others = "quoted"
[sampling]
top_p = 1.0
max_tokens = 64
[train]
questions = 4
[evaluation]
questions = 3
decodings = ["sampled"]
[provider]
max_attempts = 2
timeout_s = 5
[prices."{model}"]
input_usd = {prompt}
output_usd = {answer}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one start of a run ended: its exit status and everything it has told the user."""

    status: int
    said: tuple[str, ...]
    database: Path

    @property
    def text(self) -> str:
        return "\n".join(self.said)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with Store.open(self.database, read_only=True) as store:
            return store.rows(sql)


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def write(folder: Path, url: str, model: str = "m") -> Path:
    """The experiment file, for a server's base URL."""
    path = folder / "api.toml"
    text = _EXPERIMENT.format(url=url, model=model, prompt=PROMPT_USD, answer=ANSWER_USD)
    path.write_text(text, encoding="utf-8")
    return path


def run(folder: Path, url: str, *overrides: str, model: str = "m") -> Outcome:
    """Start the experiment, or go on with it, as `society run` does."""
    config = experiments.load_config(str(write(folder, url, model)), overrides)
    run_folder = folders.locate_run(folder / "runs", "run")
    heard, status = _Heard(), 0

    def observer(event: Event) -> None:
        if isinstance(event, Note):
            heard.lines.append(event.text)

    logging.getLogger().addHandler(heard)
    try:
        with folders.start_run(run_folder, config) as store:
            asyncio.run(runner.run_experiment(run_folder, resolve(config), store, observer))
    except Exception as error:
        status, message = errors.classify_error(error)
        if message is None:
            raise
        heard.lines.append(message)
    finally:
        logging.getLogger().removeHandler(heard)
    return Outcome(status, tuple(heard.lines), run_folder.database)
