"""Which table a record is stored in, and the SQL types of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from store.measures import Diversity, Likelihood
from store.records import (
    Checkpoint,
    Choice,
    CurriculumStep,
    Dataset,
    DatasetExample,
    Job,
    Model,
    ModelPart,
    Overlap,
    Question,
    Run,
    StoredArm,
    TrainingPoint,
    Turn,
    Verdict,
    Vote,
)
from store.run_starts import ChatTemplate, RunStart, SettingChange
from store.spending import Batch, Charge, Price
from store.tracking import TrackedFigure, TrackerRun

Record = (
    StoredArm
    | Batch
    | Charge
    | Likelihood
    | Checkpoint
    | Choice
    | ChatTemplate
    | CurriculumStep
    | Question
    | Turn
    | Vote
    | Verdict
    | Dataset
    | DatasetExample
    | Diversity
    | Job
    | Model
    | ModelPart
    | RunStart
    | Overlap
    | Price
    | Run
    | SettingChange
    | TrackedFigure
    | TrackerRun
    | TrainingPoint
)
"""A row of any table."""

# A name has one type in all tables, so the columns need not be listed per table. Columns that are
# not named here hold text.
_COLUMNS_OF = {
    "BIGINT": "process turn_id shared_turn_id rejected_turn_id position examples seed corrected "
    "kept max_examples trained_tokens left_out pairs",
    "INTEGER": "iteration iterations chosen agent round sample prompt_tokens completion_tokens "
    "votes voters quorum carried_from step questions curriculum_stage",
    "BOOLEAN": "tie correct agrees wanted exact is_extra tuned tokens_estimated stops",
    "DOUBLE": "latency_ms w weight loss learning_rate reward_margin reward_accuracy base_kl "
    "similarity input_usd output_usd cached_input_usd training_usd batch_factor value low high "
    "agreement truncation",
    "DATE": "read_on",
    "TIMESTAMP": "created_at started_at closed_at finished_at allowed_at changed_at",
    "JSON": "machine messages meta config versions custom_ids settings before now variables signs",
}
COLUMN_TYPES = {name: kind for kind, names in _COLUMNS_OF.items() for name in names.split()}
_DIVERSITY_KEY = (
    "iteration", "arm", "split", "task", "decoding", "role", "measure", "responses", "encoder",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """Where a record type is stored. `key` names the columns an upsert replaces by, if any.

    `columns` are all fields of the record, `given` those that are no function of the others.
    """

    name: str
    columns: tuple[str, ...]
    given: tuple[str, ...]
    nullable: frozenset[str]
    key: tuple[str, ...] = ()


def _describe_table(record: type, name: str, *key: str) -> Table:
    columns = tuple(f.name for f in fields(record))
    # Derived fields are stored, but a record read back computes them anew.
    given = tuple(f.name for f in fields(record) if f.init)
    # Annotations are text in `store.records`, so the optional ones are told by their text.
    nullable = frozenset(f.name for f in fields(record) if "None" in str(f.type))
    return Table(name, columns, given, nullable, key)


TABLES: Mapping[type, Table] = {
    Run: _describe_table(Run, "runs", "name"),
    RunStart: _describe_table(RunStart, "run_starts"),
    StoredArm: _describe_table(StoredArm, "arms", "arm"),
    Question: _describe_table(Question, "questions", "question_id"),
    Turn: _describe_table(Turn, "turns"),
    Vote: _describe_table(Vote, "votes"),
    Verdict: _describe_table(Verdict, "verdicts"),
    Dataset: _describe_table(Dataset, "datasets", "dataset_id"),
    DatasetExample: _describe_table(DatasetExample, "dataset_examples"),
    Diversity: _describe_table(Diversity, "diversity", *_DIVERSITY_KEY),
    Job: _describe_table(Job, "jobs", "job_id"),
    Model: _describe_table(Model, "models", "model_id"),
    ModelPart: _describe_table(ModelPart, "averages", "model_id", "parent_id"),
    Overlap: _describe_table(Overlap, "allowed_overlaps", "train_question_id", "eval_question_id"),
    Price: _describe_table(Price, "prices", "provider", "tuned"),
    Checkpoint: _describe_table(Checkpoint, "checkpoints", "job_id", "step"),
    ChatTemplate: _describe_table(ChatTemplate, "chat_templates", "provider"),
    CurriculumStep: _describe_table(CurriculumStep, "curriculum_steps", "iteration"),
    Choice: _describe_table(Choice, "choices", "arm", "iteration"),
    Batch: _describe_table(Batch, "batches", "digest"),
    Charge: _describe_table(Charge, "charges", "charge_id"),
    Likelihood: _describe_table(Likelihood, "likelihoods", "model_id", "other_id", "sha256"),
    SettingChange: _describe_table(SettingChange, "setting_changes", "changed_at", "key"),
    TrackedFigure: _describe_table(TrackedFigure, "tracked_figures", "tracker", "figure", "step"),
    TrackerRun: _describe_table(TrackerRun, "tracker_runs", "tracker"),
    TrainingPoint: _describe_table(TrainingPoint, "training_points", "job_id", "step"),
}
