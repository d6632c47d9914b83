"""The losses of preferences: DPO, IPO and KTO, from log-probabilities of whole answers.

A ratio is log π(y|x) − log π₀(y|x): π is the model in training, π₀ the reference, which is the
model that the training started from.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from providers.hyperparameters import Objective


def compute_pair_losses(
    objective: Objective, beta: float, chosen_P: torch.Tensor, rejected_P: torch.Tensor
) -> torch.Tensor:
    """The loss (P,) of each pair, from the ratios of its two answers.

    "dpo": −log σ(β · (chosen − rejected)), equation 7 of arXiv 2305.18290. "ipo": the square of
    (chosen − rejected) − 1/(2β), equation 17 of arXiv 2310.12036; its ratios are means per token,
    so that the one gap 1/(2β) means the same for long answers and short ones.
    """
    margins_P = chosen_P - rejected_P
    if objective == "ipo":
        return (margins_P - 1 / (2 * beta)) ** 2
    return -logsigmoid(beta * margins_P)


def compute_kto_losses(
    beta: float, ratios_B: torch.Tensor, wanted_B: torch.Tensor, reference_point: torch.Tensor
) -> torch.Tensor:
    """The loss (B,) of each answer, that of arXiv 2402.01306 with λ = 1.

    1 − σ(β · (ratio − z)) where the answer is wanted, 1 − σ(β · (z − ratio)) where it is not.
    `reference_point` is z, an estimate of KL(π ‖ π₀) that no gradient goes through.
    """
    signs_B = torch.where(wanted_B, 1.0, -1.0)
    return 1 - torch.sigmoid(beta * signs_B * (ratios_B - reference_point))


def weigh_kinds(wanted: int, unwanted: int) -> tuple[float, float]:
    """The weights of a wanted and of an unwanted answer: both kinds weigh the same together.

    The commoner kind has weight 1, as arXiv 2402.01306 advises.

    >>> weigh_kinds(30, 10)
    (1.0, 3.0)
    """
    if not wanted or not unwanted:
        return 1.0, 1.0
    most = max(wanted, unwanted)
    return most / wanted, most / unwanted
