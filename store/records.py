"""One frozen row type per table; field names are column names.

Convention of `iteration`: in split "train", iteration k is the k-th pass of debate → fine-tuning
(1..L), debated by the society tuned k−1 times. Split "label" holds further first answers to the
same questions, which only vote on their labels. In split "eval", iteration k is the society after k
passes (0 = untuned). Agents and rounds count from 1. Times are UTC.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from store.content import content_sha256, turn_id_of

Split = Literal["train", "eval"]
"""Of questions."""
StageSplit = Literal["train", "eval", "label"]
"""Of turns and votes."""
Decoding = Literal["sampled", "greedy"]
TurnKind = Literal["answer", "summary"]
AgentRole = Literal["generator", "critic"]
LossOn = Literal["final", "all"]
Critics = Literal["all", "sample"]
Labels = str
"""Where training labels come from: the vote of the last round ("final") or of the first ("round1"),
of the society of k iterations before ("lagged:k"), of the averaged one ("average"), or "gold"."""
Failure = Literal["passing", "refused", "final"]
# "intent" is stored before a job is submitted, so that a start after a crash knows that the
# provider may already have it.
StoredJobStatus = Literal[
    "intent", "submitted", "running", "succeeded", "failed", "cancelled", "skipped"
]


def utc_now() -> datetime:
    """The present moment, with time zone, to the microsecond."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class StageKey:
    """The debates of one arm, on one split, in one iteration and decoding.

    A turn's key is that of its stage, then question, agent, round and kind.

        StageKey(1, "train", "multiagent")  # the debates that the first fine-tuning learns from
        StageKey(2, "eval", "multiagent", "greedy")  # the society after two passes, evaluated
    """

    iteration: int
    split: StageSplit
    arm: str
    decoding: Decoding = "sampled"

    @property
    def question_split(self) -> Split:
        """The split of the questions that it asks."""
        return "eval" if self.split == "eval" else "train"

    @property
    def params(self) -> dict[str, object]:
        """The four parts by name: the parameters of `IN_STAGE`."""
        return {
            "iteration": self.iteration,
            "split": self.split,
            "arm": self.arm,
            "decoding": self.decoding,
        }


# One condition for all queries by stage: a query that forgot the arm or the decoding would mix the
# debates of several societies.
IN_STAGE = "iteration = $iteration AND split = $split AND arm = $arm AND decoding = $decoding"
"""The SQL condition that picks a stage's rows of `turns` or `votes`."""


def turn_key(
    stage: StageKey, question_id: str, agent: int, round: int, kind: TurnKind, sample: int = 0
) -> str:
    """The canonical name of a turn within a run; equal keys are the same turn."""
    # A turn's id is the hash of this text: another form would give stored turns other ids, and a
    # resumed run would ask everything again.
    key = (*stage.params.values(), question_id, agent, round, kind, *([sample] if sample else []))
    return json.dumps(key, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `gold` None where unknown; `iteration` set where questions are fresh per pass.

    `position` orders the questions of a split; `meta` is a JSON object of the task's own facts;
    `is_extra` marks the questions of an extra evaluation set, whose results are kept apart from the
    run's own: of a task that is never trained on, or of a curriculum's stage (`task` "math@2").
    """

    question_id: str
    task: str
    split: Split
    question: str
    gold: str | None = None
    iteration: int | None = None
    position: int = 0
    meta: str | None = None
    is_extra: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One response of one agent in one round, or one summary written for that agent and round.

    `messages` is the conversation as sent (JSON list), `response` the text that came back, `answer`
    the parsed answer or None; a truncated response (finish_reason "length") has no answer.
    `latency_ms` in milliseconds; `error` says why the response has no text. `shared_turn_id` is the
    turn whose response this one reuses, because it asked the same. `tokens_estimated`: the provider
    reported no tokens, and these are the most it can have used. `failure` is set where the request
    failed: a "passing" one is sent again at every start of the run, a "refused" one once, a "final"
    one never. `thought` is what the model thought, where it stands apart from the response: a
    server returned it apart, or it never ended. `sample` counts further answers of one agent that
    vote on labels from 1; it is 0 in debates. `turn_id` and `sha256` follow from the others.
    """

    iteration: int
    split: StageSplit
    arm: str
    decoding: Decoding
    question_id: str
    agent: int
    round: int
    kind: TurnKind
    model_id: str
    messages: str
    response: str
    answer: str | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    error: str | None = None
    shared_turn_id: int | None = None
    tokens_estimated: bool | None = False
    failure: Failure | None = None
    thought: str | None = None
    sample: int = 0
    created_at: datetime = field(default_factory=utc_now)
    turn_id: int = field(init=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        # A frozen class takes derived values in this way only.
        object.__setattr__(self, "turn_id", turn_id_of(self.key))
        object.__setattr__(self, "sha256", content_sha256(self.messages, self.response))

    @property
    def stage(self) -> StageKey:
        """The stage it belongs to."""
        return StageKey(self.iteration, self.split, self.arm, self.decoding)

    @property
    def key(self) -> str:
        """The turn's `turn_key`."""
        return turn_key(
            self.stage, self.question_id, self.agent, self.round, self.kind, self.sample
        )


@dataclass(frozen=True, slots=True)
class Vote:
    """The majority vote of one debate in one round.

    `answer` is the label: the plurality class in its most frequent wording, None where there is
    none (no parsed answer, a tie that is dropped, or fewer voters than the quorum). `votes` counts
    the plurality class's supporters, also in a tie; `voters` the parsed answers. `correct` compares
    the label with gold: None only where gold is unknown, False where there is gold and no label.
    `quorum` is how many voters a label takes in training; None where none was asked for.
    `carried_from` names the round whose vote this one repeats, because the debate ended there; None
    in a round that was held.
    """

    iteration: int
    split: StageSplit
    arm: str
    decoding: Decoding
    question_id: str
    round: int
    answer: str | None
    votes: int
    voters: int
    tie: bool
    correct: bool | None = None
    quorum: int | None = None
    carried_from: int | None = None

    @property
    def stage(self) -> StageKey:
        """The stage it belongs to."""
        return StageKey(self.iteration, self.split, self.arm, self.decoding)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known about one answer turn.

    `agrees`: equivalent to the debate's label ŷ; False without a parsed answer; None where there
    is no label. `correct`: equivalent to gold; False without a parsed answer; None without gold.
    """

    turn_id: int
    agrees: bool | None
    correct: bool | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """One immutable training set of one agent's role; agent 0 is a model shared by all agents.

    `examples` counts rows, of which `corrected` are from C− and `kept` from C+ (None for a
    generator). `critics` is the rule for a critic's rows, `w` the asked fraction of corrected ones.
    `loss_on`: which assistant turns bear the loss. `sha256` covers the content and its weights.
    """

    dataset_id: str
    iteration: int
    arm: str
    agent: int
    role: AgentRole
    examples: int
    sha256: str
    loss_on: LossOn
    seed: int
    corrected: int | None = None
    kept: int | None = None
    w: float | None = None
    max_examples: int | None = None
    note: str | None = None
    critics: Critics | None = None
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class DatasetExample:
    """A row of a dataset: the turn at `position` (from 0), whose loss is multiplied by `weight`.

    Of preferences: `rejected_turn_id` is the worse answer's turn, or `wanted` judges the turn.
    """

    dataset_id: str
    turn_id: int
    question_id: str
    position: int
    weight: float = 1.0
    rejected_turn_id: int | None = None
    wanted: bool | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One fine-tuning job. `job_id` is our unique name, `provider_job_id` the provider's.

    Status "intent" is written before anything is submitted; "skipped" means that no job was needed
    or possible and the old model stays, with the reason in `error`. `shared_job_id` is the job
    whose model this one reuses, because it described the same training. `settings` is a JSON object
    of what it starts from and how it trains, None in runs of earlier versions. `base_kl` is how far
    its model is from the base, mean KL in nats per trained token; `left_out` counts the examples
    that were too long. Both are None if the provider does not say.
    """

    job_id: str
    iteration: int
    arm: str
    agent: int
    role: AgentRole
    dataset_id: str
    digest: str
    status: StoredJobStatus
    provider_job_id: str | None = None
    raw_status: str | None = None
    error: str | None = None
    trained_tokens: int | None = None
    shared_job_id: str | None = None
    settings: str | None = None
    base_kl: float | None = None
    left_out: int | None = None
    created_at: datetime = field(default_factory=utc_now)
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model a run has used. `provider` is its address, `artifact` None for the bare base.

    A tuned model names its parent, dataset and job; `sha256` is that of its artifact, where known.
    An averaged model has neither dataset nor job; `ModelPart` says what it is made of, `parent_id`
    names the newest of these. `truncation` is the share of its change from the base, by norm, that
    its rank could not hold.
    """

    model_id: str
    provider: str
    parent_id: str | None = None
    artifact: str | None = None
    sha256: str | None = None
    dataset_id: str | None = None
    job_id: str | None = None
    iteration: int | None = None
    arm: str | None = None
    agent: int | None = None
    role: AgentRole | None = None
    truncation: float | None = None
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class ModelPart:
    """One model that the averaged model `model_id` is made of, with its weight (0..1)."""

    model_id: str
    parent_id: str
    weight: float


@dataclass(frozen=True, slots=True)
class Run:
    """The run this file belongs to. `config` and `versions` are JSON objects."""

    name: str
    config: str
    config_sha256: str
    seed: int
    versions: str
    created_at: datetime = field(default_factory=utc_now)
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredArm:
    """One arm of the run: the society itself, a baseline or an ablation.

    `position` is its place in the experiment file. `kind` names what it is ("multiagent", "star",
    …), which `arm` does too unless the user has made a variant. `labels` says where the training
    labels come from, None where nothing is trained; `settings` is a JSON object of all that
    distinguishes the arm.
    """

    arm: str
    position: int
    kind: str
    labels: Labels | None
    settings: str


@dataclass(frozen=True, slots=True)
class TrainingPoint:
    """One optimizer step of a job: its mean loss and the learning rate used.

    The loss is in nats per trained token. That of preferences is per pair or answer; then
    `reward_margin` says by how much the rewards of wanted answers are above those of the others,
    and `reward_accuracy` in which share of the pairs they are.
    """

    job_id: str
    step: int
    loss: float
    learning_rate: float
    reward_margin: float | None = None
    reward_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training question that is, or nearly is, an evaluation question, which the user allowed.

    `similarity` is a share 0..1; `exact` where the two differ in nothing but case, space and marks.
    """

    train_question_id: str
    eval_question_id: str
    similarity: float
    exact: bool
    allowed_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A job's model during training. `model` is the provider's own id, None if it was not kept."""

    job_id: str
    step: int
    model: str | None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class CurriculumStep:
    """The stage of the curriculum that an iteration trains on, where the votes decide it.

    `curriculum_stage` counts the entries of `task.curriculum` from 1, `task` is the stage's label.
    `agreement` is that of the arm `arm` on its training questions of the iteration before; both are
    None for iteration 1.
    """

    iteration: int
    curriculum_stage: int
    task: str
    arm: str | None
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which society of an arm is the best by its signs, decided once iteration `iteration` was
    evaluated.

    `chosen` is its iteration. `stops`: the arm is trained no further, as long as the run's
    `iterations` stay as they were then. `signs` is a JSON list with one object for each society
    that was compared, see `evals.stopping.Signs`.
    """

    arm: str
    iteration: int
    chosen: int
    stops: bool
    iterations: int
    reason: str
    signs: str
    created_at: datetime = field(default_factory=utc_now)
