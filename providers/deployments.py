"""Deployments: what some vendors keep ready between a job and the answers of its model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deployment:
    """A tuned model that a vendor keeps ready to answer; `artifact` is that of its `ModelRef`.

    `raw_status` is the vendor's own word. `usd_per_hour` is what it costs whether it is asked or
    not: 0 if only its tokens are billed, None if not known.
    """

    artifact: str
    raw_status: str
    usd_per_hour: float | None = None
