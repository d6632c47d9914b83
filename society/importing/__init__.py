"""Imports: a run made from debates that were held outside society.

Everything that works on runs then works on them; verdicts, votes and datasets are those that
society itself would have made. A run is made only if the whole file is in order. Formats, derived
fields and limits: docs/import.md.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from society.config.load import ConfigError
from society.config.schema import Config
from society.importing import debates, experiment, formats
from society.importing.debates import ImportedDebates, TranscriptError
from society.importing.experiment import ImportSource
from society.importing.questions import ImportedQuestions
from society.importing.rows import NAMELESS, build_rows
from society.method.arms import build_arms
from society.method.finetuning import build_arm_datasets
from society.method.voting import default_quorum
from society.runs import folder as folders
from society.runs.folder import RunFolder
from store.ledger import Store
from store.records import Model, Split, StageKey, utc_now
from store.tables import Record

__all__ = ["ImportSource", "Imported", "TranscriptError", "import_file"]

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Imported:
    """A new run. `left_out` names skipped incomplete debates, `numbers` the agents in the file."""

    folder: RunFolder
    config: Config
    left_out: tuple[str, ...]
    numbers: tuple[int, ...]


def import_file(
    path: Path,
    folder: RunFolder,
    source: ImportSource,
    *,
    split: Split = "train",
    iteration: int | None = None,
    skip_incomplete: bool = False,
) -> Imported:
    """Make the run `folder` from the transcripts in `path`.

    `split` and `iteration` apply to debates that name none. Raises `TranscriptError` for faults in
    the file and `ConfigError` for wrong settings; neither leaves anything behind.

        source = ImportSource(experiment=None, task="gsm8k", answers=None)
        import_file(Path("debates.jsonl"), locate_run(Path("runs"), "imported"), source)
    """
    if folder.path.exists():
        raise ConfigError(f"{folder.path} exists already; choose another --name")
    judge, config = experiment.load_reading_rules(source, folder)
    spoken = formats.read_transcripts(path, split, iteration)
    # All problems are collected: one run of the command shows everything to correct.
    problems: list[str] = []
    prefix = "" if source.answers is None else f"{judge.task.name}:"
    questions = ImportedQuestions(judge.task, judge.read_gold, judge.known, problems, prefix)
    ids = questions.collect(spoken)
    found = debates.gather_debates(spoken, ids, problems, partial(_ends_early, config))
    found = debates.leave_out_open_ends(found, judge.task)
    if found.left_out and not skip_incomplete:
        problems += [f"{each}; complete it, or use --skip-incomplete" for each in found.left_out]
    elif not found.complete:
        problems.append("no debate is complete")
    if not problems:
        config = experiment.complete_config(source, config, folder, found)
        if config.society.others == "summarized":
            problems += debates.find_unexplained(found)
    if problems:
        raise TranscriptError(str(path), problems)
    _write(folder, _Content(config, source, questions, found))
    return Imported(folder, config, found.left_out, found.numbers)


def _ends_early(config: Config, stage: StageKey) -> bool:
    return config.for_arm(stage.arm).society.ends_early(stage.question_split)


@dataclass(frozen=True, slots=True)
class _Content:
    config: Config
    source: ImportSource
    questions: ImportedQuestions
    debates: ImportedDebates

    def rows(self) -> Iterator[Record]:
        """All rows except datasets, question by question."""
        config, found = self.config, self.debates
        models = {s.model or NAMELESS for d in found.complete for s in d.turns.values()}
        yield from (Model(name, provider=f"{NAMELESS}:") for name in sorted(models))
        position: dict[Split, int] = {"train": 0, "eval": 0}
        seen: set[str] = set()
        for debate in found.complete:
            if debate.question_id not in seen:
                seen.add(debate.question_id)
                yield self.questions.record(
                    debate.question_id, position[debate.stage.question_split]
                )
                position[debate.stage.question_split] += 1
            yield from build_rows(
                debate,
                self.questions.find_question(debate.question_id),
                self.questions.task,
                (found.agents, found.rounds),
                config.wording,
                summarized=config.society.others == "summarized",
                drop_ties=config.consensus.ties == "drop",
                quorum=config.consensus.quorum or default_quorum(found.agents),
                seed=config.seed,
            )


def _write(folder: RunFolder, content: _Content) -> None:
    # The draft lies beside the final folder, so that a failed import leaves no run behind.
    draft = RunFolder(folder.name, folder.path.with_name(f".{folder.name}.importing"))
    shutil.rmtree(draft.path, ignore_errors=True)
    try:
        with folders.start_run(draft, content.config) as store:
            for batch in _batches(content.rows()):
                store.write(*batch)
            _build_datasets(store, content)
            run = store.run()
            # With an experiment the run may continue; without one there is nothing left to do.
            if run is not None and content.source.experiment is None:
                store.write(replace(run, finished_at=utc_now()))
        if content.source.answers is not None:
            _write_questions(draft, content)
        draft.path.rename(folder.path)
    except BaseException:
        shutil.rmtree(draft.path, ignore_errors=True)
        raise


def _batches(records: Iterator[Record]) -> Iterator[Sequence[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) >= _ROWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _build_datasets(store: Store, content: _Content) -> None:
    config, found = content.config, content.debates
    stages = (debate.stage for debate in found.complete)
    trained = {(s.iteration, s.arm) for s in stages if s.split == "train"}
    known = build_arms(config)
    arms = {arm.name: arm for arm in known}
    for iteration, arm in sorted(trained):
        rules = arms.get(arm) or replace(known[0], name=arm)
        build_arm_datasets(store, config, rules, iteration)


def _write_questions(folder: RunFolder, content: _Content) -> None:
    """Write the questions as files of the task "file", so that the run's config can run again."""
    asked: dict[Split, dict[str, str]] = {"train": {}, "eval": {}}
    for debate in content.debates.complete:
        question = content.questions.find_question(debate.question_id)
        row = {
            "id": question.question_id.removeprefix(f"{content.questions.task.name}:"),
            "question": question.text,
            "gold": question.gold,
        }
        line = json.dumps(row, ensure_ascii=False)
        asked[debate.stage.question_split][question.question_id] = line
    for split, lines in asked.items():
        if lines:
            text = "".join(f"{line}\n" for line in lines.values())
            experiment.locate_questions(folder, split).write_text(text, encoding="utf-8")
