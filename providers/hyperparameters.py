"""The settings of a fine-tuning job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

ALL_LINEAR = "all-linear"
"""The value of `Hyperparameters.target_modules` for every linear layer that can have an adapter."""
Objective = Literal["sft", "dpo", "ipo", "kto"]
"""What a training minimizes: "sft" the loss on answers, the others a loss on preferences."""
InitLoraWeights = Literal[True, "gaussian"]
"""How fresh LoRA factors are drawn, in PEFT's words.

Its other ways change the base's weights, which all adapters share, or need data.
"""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How to fine-tune. A provider refuses what it cannot honor; it ignores nothing silently.

    `batch_size` counts examples per optimizer step. `learning_rate` is absolute, for training on
    this machine; `learning_rate_multiplier` is for vendors that scale a rate of their own. `warmup`
    is a fraction of all steps.

    LoRA: `target_modules` are the ends of layers' names, or "all-linear"; `lora_experts` adds the
    fused experts of a mixture; `use_rslora` scales by alpha / sqrt(rank), `use_dora` also learns
    each output's magnitude; `init_lora_weights` as in PEFT. `neftune_alpha` is the size of the
    noise on embeddings in training. Examples longer than `max_example_tokens` are left out.
    `gradient_checkpointing` "auto" recomputes activations of long passes on a CPU, and once memory
    runs out.

    Preferences: `beta` is that of the objective's paper, and `sft_weight` times the mean loss per
    token of the wanted answers is added. `anchor` times the mean KL(model ‖ tuned) per trained
    token is added to any objective; `anchor_to` says from which model.
    """

    method: Literal["lora", "full"] = "lora"
    epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 1e-4
    learning_rate_multiplier: float | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    lora_experts: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: InitLoraWeights = True
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    neftune_alpha: float | None = None
    max_example_tokens: int | None = None
    objective: Objective = "sft"
    beta: float = 0.1
    sft_weight: float = 0.0
    anchor: float = 0.0
    anchor_to: Literal["start", "base"] = "start"

    @property
    def facts(self) -> dict[str, object]:
        """The settings by name; those younger than stored jobs only if they are not the default."""
        # Texts and digests of jobs are compared with those of jobs from before the setting existed.
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _ADDED or getattr(self, field.name) != field.default
        }

    @property
    def lora(self) -> tuple[object, ...]:
        """What decides how a fresh LoRA adapter is made; the rest says how it is trained."""
        names = ("lora_rank", "lora_alpha", "lora_dropout", *LORA_CHOICES)
        return tuple(getattr(self, name) for name in names)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Hyperparameters:
        """The settings whose `facts` were stored, perhaps as JSON."""
        found = dict(facts)
        if isinstance(names := found.get("target_modules"), list):
            found["target_modules"] = tuple(names)
        return cls(**found)


LORA_CHOICES = ("target_modules", "lora_experts", "use_rslora", "use_dora", "init_lora_weights")
"""What `Hyperparameters` say of LoRA beside rank, alpha and dropout."""
TRAINING_CHOICES = ("gradient_checkpointing", "neftune_alpha", "max_example_tokens")
"""What they say of every training on this machine, beside the optimizer's settings."""
OBJECTIVE_CHOICES = ("objective", "beta", "sft_weight", "anchor", "anchor_to")
"""What they say of the loss that is minimized."""
_ADDED = frozenset({*LORA_CHOICES, *TRAINING_CHOICES, *OBJECTIVE_CHOICES})


def find_objective_conflicts(hyperparameters: Hyperparameters) -> list[str]:
    """The settings of the loss that have no effect on the one that is minimized, with remedies."""
    problems = []
    if hyperparameters.objective == "sft":
        problems = [
            f"finetune.{name} = {value!r} belongs to preferences, and finetune.objective is 'sft'; "
            "remove it, or set finetune.objective = 'dpo'"
            for name in ("beta", "sft_weight")
            if (value := getattr(hyperparameters, name)) != getattr(_DEFAULTS, name)
        ]
    if hyperparameters.anchor_to != _DEFAULTS.anchor_to and not hyperparameters.anchor:
        problems.append(
            f"finetune.anchor_to = {hyperparameters.anchor_to!r} has no effect without an anchor; "
            "remove it, or set finetune.anchor, such as 0.1"
        )
    return problems


_DEFAULTS = Hyperparameters()
