"""Amazon's Nova models as Bedrock tunes them: names, regions, and what a job may have.

Regions and names: https://docs.aws.amazon.com/bedrock/latest/userguide/custom-model-fine-tuning.html
Hyperparameters: https://docs.aws.amazon.com/bedrock/latest/userguide/custom-models-hp.html
Numbers of examples and reserved words: nova_ft_dataset_validator.py of
https://github.com/aws-samples/amazon-nova-samples and
https://docs.aws.amazon.com/nova/latest/userguide/fine-tune-prepare-data-understanding.html
All read on 2026-11-30.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

READ_ON = "2026-11-30"
MAX_EPOCHS = 5
MIN_RATE, MAX_RATE = 1e-6, 1e-4
MAX_WARMUP = 100
RESERVED = (
    *("System:", "User:", "Bot:", "Assistant:", "Thought:"),
    *("[EOS]", "<image>", "<video>", "<unk>"),
)
"""Texts, in any case, that make a job fail wherever they are in its data."""

# An inference profile is a model's name behind a geography, such as "us.".
_GEOGRAPHY = re.compile(r"^(?:[a-z]{2,6}\.)(?=amazon\.)")


@dataclass(frozen=True, slots=True)
class NovaModel:
    """A model that can be tuned. `tuning_id` is its name in jobs, `regions` have jobs for it.

    `warmup_share`: the vendor recommends examples / this many steps of warmup; None if it says
    nothing. `validation`: whether a job measures validation data.
    """

    chat_id: str
    tuning_id: str
    min_examples: int = 8
    max_examples: int = 20_000
    warmup_share: int | None = None
    validation: bool = True
    regions: tuple[str, ...] = ("us-east-1",)

    def choose_warmup(self, examples: int) -> int | None:
        """Steps of warmup for a job with so many examples; None: the vendor's default."""
        return None if self.warmup_share is None else min(MAX_WARMUP, examples // self.warmup_share)


MODELS = (
    NovaModel("amazon.nova-micro-v1:0", "amazon.nova-micro-v1:0:128k", warmup_share=640),
    NovaModel("amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0:300k", warmup_share=160),
    NovaModel("amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0:300k", warmup_share=320),
    NovaModel(
        "amazon.nova-2-lite-v1:0",
        "amazon.nova-2-lite-v1:0:256k",
        min_examples=200,
        validation=False,
    ),
)


def find_model(name: str) -> NovaModel | None:
    """The tunable model behind a model or an inference profile; None if it cannot be tuned here.

    >>> find_model("us.amazon.nova-2-lite-v1:0").tuning_id
    'amazon.nova-2-lite-v1:0:256k'
    """
    bare = _GEOGRAPHY.sub("", name)
    return next((model for model in MODELS if bare in (model.chat_id, model.tuning_id)), None)


def is_nova(name: str) -> bool:
    """Whether a model is one of Amazon's Nova family."""
    return _GEOGRAPHY.sub("", name).startswith("amazon.nova")


def can_reason(name: str) -> bool:
    """Whether a model or an inference profile thinks before it answers, if it is told to.

    https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html

    >>> can_reason("us.amazon.nova-2-lite-v1:0"), can_reason("amazon.nova-micro-v1:0")
    (True, False)
    """
    return _GEOGRAPHY.sub("", name).startswith("amazon.nova-2")
