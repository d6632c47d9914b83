"""The settings of a fine-tuning job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

ALL_LINEAR = "all-linear"
"""The value of `Hyperparameters.target_modules` for every linear layer that can have an adapter."""
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
    `gradient_checkpointing` "auto" recomputes activations once memory runs out.
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

    @property
    def facts(self) -> dict[str, object]:
        """The settings by name; those younger than stored jobs only if they are not the default."""
        # Texts and digests of jobs are compared with those of jobs from before the setting existed.
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _ADDED or getattr(self, field.name) != field.default
        }

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
_ADDED = frozenset({*LORA_CHOICES, *TRAINING_CHOICES})
