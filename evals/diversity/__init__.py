"""How different the agents of a society are, in what they say and in their models.

For one society and one set of debated questions, per role (generator: the answers of round 1;
critic: those of the last round, where there is a second), with y_n the response of agent n to its
own conversation x_n, and every mean over questions of means within a question:

    embedding  mean over pairs m < n of 1 − cos(e(y_m), e(y_n)), with e a sentence encoder
    nll        mean over pairs m ≠ n of −(1/|y_m|) Σ_t log p_n(y_m,t | x_m, y_m,<t)
    kl         mean over pairs m ≠ n of (1/|y_m|) Σ_t D(p_m ‖ p_n) at place t of y_m
    kl_base    mean over n of (1/|y_n|) Σ_t D(p_n ‖ p_base) at place t of y_n

in nats per token at temperature 1, the end of a response not counted (after arXiv 2501.05707, which
names the four). Where a provider tells only the probability of a given text, D is estimated from
responses that were sampled from the first model, by log p_m(y_m,t) − log p_n(y_m,t): `encoder` is
"sampled" then instead of "exact". Equal models have no divergence, which is told without asking.

`agreeing` takes only responses that agree with ŷ, so that a question needs two of them for a pair.
Otherwise unlike answers alone would count as diversity. What cannot be had is None, with a note.
"""

from __future__ import annotations

from evals.diversity.cache import Cache
from evals.diversity.encoders import EncoderUnavailable, check_encoder
from evals.diversity.measuring import MEASURES, DiversityOptions, Measurement, Progress

__all__ = [
    "MEASURES",
    "Cache",
    "DiversityOptions",
    "EncoderUnavailable",
    "Measurement",
    "Progress",
    "check_encoder",
]
