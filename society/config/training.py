"""The sections [datasets] and [finetune]: what is learnt from the debates, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetune.selection import TrainingSelection
from providers.hyperparameters import (
    ALL_LINEAR,
    LORA_CHOICES,
    OBJECTIVE_CHOICES,
    TRAINING_CHOICES,
    Hyperparameters,
    InitLoraWeights,
    Objective,
)
from society.config.files import SelectionFile
from society.config.values import (
    MOST_ITERATIONS,
    Count,
    LoraNames,
    NotNegative,
    Part,
    Positive,
    Section,
    Share,
    Whole,
)
from store.records import AgentRole, Critics


class DatasetsSection(Section):
    """What is learnt from the debates."""

    added = frozenset(
        {"margin", "margin_weights", "replay", "replay_share", "novelty", "critic_first_answers"}
    )
    critics: Critics = "all"
    """Critics learn from every conversation that ends at the label, or from the largest sample
    without repeats that has the share `w`."""
    w: Share | None = None
    """What conversations that corrected a wrong first answer count among a critic's; the rest, 1 −
    w, were right in round 1 too, by the vote. Without it each conversation counts the same; a
    sample has 0.5."""
    critic_loss: Literal["final", "all"] = "final"
    """Which answers of a critic's conversation it learns: the last one, or all of its own."""
    max_examples: Count | None = None
    """The most examples of one model and iteration. A bound on cost and time."""
    generation: SelectionFile | None = None
    """A .sql file that chooses the generators' examples in place of `generation_examples`."""
    critic: SelectionFile | None = None
    """A .sql file that chooses the critics' examples in place of `critic_examples`."""
    margin: Annotated[tuple[Share, Share], Field(strict=False)] | None = None
    """The lowest and the highest share of votes behind a label that is learnt. `[0.5, 0.9]` leaves
    out labels that are likely wrong, and questions that teach nothing."""
    margin_weights: bool = False
    """Weigh examples by the share of votes behind their label."""
    replay: Whole | Literal["all"] = 0
    """How many earlier iterations are learnt again. Use it with `finetune.init = "fresh"`."""
    replay_share: Part = 1.0
    """The part of the earlier iterations' questions that is learnt again."""
    novelty: Part | None = None
    """Keep this part of an agent's answers: those most unlike the other agents' answers."""
    critic_first_answers: bool = False
    """Teach critics the generators' answers too."""

    @model_validator(mode="after")
    def _check_together(self) -> DatasetsSection:
        if self.margin is not None and self.margin[0] > self.margin[1]:
            low, high = self.margin
            raise ValueError(f"margin = [{low}, {high}] is empty; write the lower share first")
        if self.replay_share != 1.0 and not self.replay:
            raise ValueError(
                f"replay_share = {self.replay_share} is a share of earlier iterations, and replay "
                "= 0 learns from none; set replay, or remove replay_share"
            )
        if self.critic_first_answers and self.critic is not None:
            raise ValueError(
                "critic_first_answers adds rows to those that critic chooses; remove one of them"
            )
        return self

    @property
    def replayed(self) -> int:
        """How many earlier iterations are learnt again."""
        return MOST_ITERATIONS if self.replay == "all" else self.replay

    @property
    def selections(self) -> dict[AgentRole, TrainingSelection]:
        """The user's own selections, by the role whose rows they choose."""
        files: dict[AgentRole, SelectionFile | None] = {
            "generator": self.generation,
            "critic": self.critic,
        }
        return {role: file.selection for role, file in files.items() if file is not None}


_BY_ROLE = ("epochs", "learning_rate")
"""The settings that generators and critics may have their own of."""


class FinetuneSection(Section):
    """Fine-tuning of every agent's generator and critic.

    A provider refuses what it cannot honor before the first call.
    """

    added = frozenset(
        {
            *LORA_CHOICES,
            *("critic_init", "generator_learning_rate", "critic_learning_rate"),
            *TRAINING_CHOICES,
            *OBJECTIVE_CHOICES,
        }
    )
    init: Literal["continue", "fresh"] = "continue"
    """Train each model further, or start from the base in every iteration. Fresh starts need
    `datasets.replay`: without it they forget ([improvement.md](improvement.md))."""
    critic_init: Literal["own", "base", "generator"] = "own"
    """What critics start from: their own weights, as `init` says, the base, or the generator that
    the same agent has got in this iteration."""
    on_failure: Literal["stop", "keep"] = "stop"
    """What a failed job does: stop before the next iteration, or let its agent keep the old
    model."""
    validation_share: Annotated[float, Field(ge=0.0, lt=1.0, strict=False)] = 0.0
    """The part of the questions that is held out of training; the provider measures its loss. 0.1
    shows overfitting."""
    method: Literal["lora", "full"] = "lora"
    """Train an adapter on the base, or all weights. Fully tuned models are kept in float32: 4 bytes
    for each weight, on disk and in memory."""
    generator_epochs: Count = 2
    """A generator's passes over its examples."""
    critic_epochs: Count = 2
    """A critic's passes over its examples."""
    batch_size: Count = 16
    """Examples in an optimizer step. Smaller batches make more steps of the same examples."""
    learning_rate: Positive = 1e-4
    """The peak of the schedule, for models that this software trains. The run warns of a rate that
    moves nothing; lower it if labels get worse from one iteration to the next."""
    learning_rate_multiplier: Positive | None = None
    """For vendors that scale a rate of their own: what they multiply it by."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""
    warmup: Share = 0.03
    """The part of all steps in which the rate rises to its peak."""
    weight_decay: NotNegative = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: NotNegative = 1.0
    """The length that gradients are cut to; 0 leaves them as they are."""
    lora_rank: Count = 16
    """Rank of the adapters. A higher one learns more from many examples and takes more memory."""
    lora_alpha: Count = 32
    """What the adapters' products are scaled by, divided by the rank. Keep it at twice the rank."""
    lora_dropout: Share = 0.0
    """The part of an adapter's inputs that is dropped in training."""
    target_modules: LoraNames | str = ALL_LINEAR
    """The layers that get an adapter: ends of their names, as in `["q_proj", "v_proj"]`. By default
    all linear layers of the text model, without routers, output layer and vision tower."""
    lora_experts: bool = False
    """Put LoRA on the fused experts of a mixture-of-experts model too; such adapters answer more
    slowly."""
    use_rslora: bool = False
    """Scale by alpha / √rank instead of alpha / rank. For ranks of 64 and more."""
    use_dora: bool = False
    """Learn each output's magnitude too ([DoRA](https://arxiv.org/abs/2402.09353)); such adapters
    answer more slowly."""
    init_lora_weights: InitLoraWeights = True
    """How fresh factors are drawn, in PEFT's words. PiSSA, OLoRA, CorDA and LoftQ change the base,
    which all adapters share; EVA needs data."""
    generator_learning_rate: Positive | None = None
    """A rate for generators; by default `learning_rate`."""
    critic_learning_rate: Positive | None = None
    """A rate for critics; by default `learning_rate`."""
    max_example_tokens: Count | None = None
    """Leave out examples with more tokens, prompt included. `jobs.left_out` counts them, and the
    run says how many. Set it if memory runs out in training."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Compute activations again in the backward pass, which saves memory and costs time. By default
    once memory runs out, and on a CPU as far as a pass holds more than 768 tokens."""
    neftune_alpha: Positive | None = None
    """Add noise of this size to embeddings in training
    ([NEFTune](https://arxiv.org/abs/2310.05914)); 5 is usual."""
    objective: Objective = "sft"
    """What is minimized: the loss on answers, or a loss on
    [preferences](datasets.md#learning-from-preferences)."""
    beta: Positive = 0.1
    """With preferences: how much a departure from the model before the training costs, β of DPO and
    KTO, τ of IPO."""
    sft_weight: NotNegative = 0.0
    """With preferences: add this many times the mean loss per token of the wanted answers."""
    anchor: NotNegative = 0.0
    """Add this many times the mean KL(model before ‖ model after) per trained token, with any
    objective ([more](datasets.md#staying-near-a-model))."""
    anchor_to: Literal["start", "base"] = "start"
    """Which model the anchor holds to: the one that the training starts from, or the base."""

    def hyperparameters(self, role: AgentRole) -> Hyperparameters:
        """The settings of one job: the same for all agents; epochs and rate may differ by role."""
        # Every other field has the name of one of Hyperparameters, so a new setting needs no line
        # here.
        ours = {"init", "critic_init", "on_failure", "validation_share", "learning_rate"}
        by_role = {f"{r}_{key}" for r in ("generator", "critic") for key in _BY_ROLE}
        # The text leaves out younger keys at their default, which `Hyperparameters` has too.
        shared = self.model_dump(exclude=ours | by_role)
        epochs, rate = (getattr(self, f"{role}_{key}") for key in _BY_ROLE)
        return Hyperparameters(epochs=epochs, learning_rate=rate or self.learning_rate, **shared)
