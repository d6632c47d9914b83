"""The experiment an imported run belongs to: the user's own, or one made from what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from evals import answers, tasks
from evals.tasks.base import Split, Task
from society.config import load as experiments
from society.config.load import ConfigError
from society.config.schema import Config
from society.importing.debates import ImportedDebates
from society.importing.questions import KnownQuestion
from society.method.experiment import load_experiment
from society.method.questions import Questions
from society.runs.folder import RunFolder
from society.runs.question_file import ReadGold, choose_gold_reader

LABEL = "transcript"
"""The task's name, and prefix of question ids, if only a kind of answer is given."""

# Options of the task "file" and what they are called by the kinds of answers.
_KIND_OPTIONS = {"choice_count": "choices", "case": "case", "tolerance": "tolerance"}


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """How to read answers and gold answers, and which questions the experiment asks."""

    task: Task
    read_gold: ReadGold
    known: dict[str, KnownQuestion]


@dataclass(frozen=True, slots=True)
class ImportSource:
    """Where the settings of an import come from: exactly one of experiment, task and answers."""

    experiment: str | None
    task: str | None
    answers: str | None
    settings: Sequence[str] = ()

    def __post_init__(self) -> None:
        given = [value for value in (self.experiment, self.task, self.answers) if value is not None]
        if len(given) != 1:
            raise ConfigError(
                f"{len(given)} of --config, --task and --answers are given; give one of them, "
                "which says how answers are read: an experiment, a task such as gsm8k, or one of "
                + ", ".join(get_args(answers.OptionFreeAnswerName))
            )


def load_reading_rules(source: ImportSource, folder: RunFolder) -> tuple[ReadingRules, Config]:
    """The judge of the transcripts, and the experiment as far as the user has set it.

    Raises `ConfigError` for an experiment, task, kind or setting that cannot be used.
    """
    if source.experiment is not None:
        loaded = load_experiment(source.experiment, source.settings)
        task = loaded.questions.task
        return ReadingRules(
            task, choose_gold_reader(task), _list_known(loaded.questions)
        ), loaded.config
    # The size is not known yet; `complete_config` adds it when the file has been read.
    config = experiments.build_config(_build_table(source, folder), "--set", source.settings)
    try:
        task = tasks.load_task(config.task.name, config.task.options)
        if source.answers is None:
            return ReadingRules(task, choose_gold_reader(task), {}), config
        kind = answers.load_kind(source.answers, _kind_options(config))
        return ReadingRules(task, kind.read_gold, {}), config
    except ValueError as error:
        raise ConfigError(str(error)) from error


def complete_config(
    source: ImportSource, config: Config, folder: RunFolder, debates: ImportedDebates
) -> Config:
    """The experiment with the size of the debates, unless the user gave an experiment.

    Raises `ConfigError` if the user's experiment has another size.
    """
    if source.experiment is None:
        made = {**_derive_settings(debates), **_build_table(source, folder)}
        config = experiments.build_config(made, "--set", source.settings)
    size = (config.society.agents, config.society.rounds)
    # Settings decide how votes are counted, so they must fit the debates.
    if size != (debates.agents, debates.rounds):
        raise ConfigError(
            "the experiment has society.agents = {} and society.rounds = {}, ".format(*size)
            + f"the transcripts {debates.agents} and {debates.rounds}; set "
            f"--set society.agents={debates.agents} --set society.rounds={debates.rounds}"
        )
    return config


def locate_questions(folder: RunFolder, split: Split) -> Path:
    """The file with the questions of an import that has a kind of answer and no task."""
    return folder.path / f"questions-{split}.jsonl"


def _build_table(source: ImportSource, folder: RunFolder) -> dict[str, Any]:
    task: dict[str, Any] = {"name": source.task}
    if source.answers is not None:
        files: dict[str, Any] = {
            f"{split}_path": str(locate_questions(folder, split)) for split in ("train", "eval")
        }
        task = {"name": "file", "answer": source.answers, "label": LABEL, "gold": "gold", **files}
    return {"model": f"replay:{folder.path}", "task": task}


def _kind_options(config: Config) -> dict[str, object]:
    given = config.task.options
    return {option: given[name] for name, option in _KIND_OPTIONS.items() if name in given}


def _derive_settings(debates: ImportedDebates) -> dict[str, Any]:
    stages = {debate.stage for debate in debates.complete}
    asked: dict[Split, dict[int, set[str]]] = {"train": {}, "eval": {}}
    for debate in debates.complete:
        split, iteration = debate.stage.question_split, debate.stage.iteration
        asked[split].setdefault(iteration, set()).add(debate.question_id)
    others = "summarized" if debates.has_summaries else "quoted"
    found: dict[str, Any] = {
        "iterations": max(stage.iteration for stage in stages),
        "society": {"agents": debates.agents, "rounds": debates.rounds, "others": others},
    }
    if asked["train"]:
        found["train"] = {"questions": max(map(len, asked["train"].values()))}
    if asked["eval"]:
        decodings = sorted({s.decoding for s in stages if s.split == "eval"}, reverse=True)
        questions = max(map(len, asked["eval"].values()))
        found["evaluation"] = {"questions": questions, "decodings": decodings}
    return found


def _list_known(questions: Questions) -> dict[str, KnownQuestion]:
    training = questions.all_training_questions()
    known = {q.text.strip(): KnownQuestion(q, "train", n) for n, q in enumerate(training)}
    held_out = questions.evaluation_sets[0].questions()
    return known | {q.text.strip(): KnownQuestion(q, "eval", n) for n, q in enumerate(held_out)}
