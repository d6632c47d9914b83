"""What a server's headers say about waiting and about its budgets."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Literal

from providers.limits import Quota

_DURATION = re.compile(r"(?P<amount>\d+(?:\.\d+)?)(?P<unit>ms|us|µs|d|h|m|s)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_BUDGETS: tuple[Literal["requests", "tokens"], ...] = ("requests", "tokens")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait before the next try, None where it does not say.

    Without a `retry-after` header it is the longest reset among the budgets that are used up.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    told = headers.get("retry-after")
    seconds = _number(told)
    if seconds is None and told is not None:
        seconds = _until(told)
    if seconds is not None:
        return seconds
    resets = [
        duration_s(headers.get(f"x-ratelimit-reset-{kind}"))
        for kind in _BUDGETS
        if _number(headers.get(f"x-ratelimit-remaining-{kind}")) == 0
    ]
    return max((reset for reset in resets if reset is not None), default=None)


def quotas(headers: Mapping[str, str]) -> dict[Literal["requests", "tokens"], Quota]:
    """The budgets that the headers describe in full."""
    found: dict[Literal["requests", "tokens"], Quota] = {}
    for kind in _BUDGETS:
        remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
        if remaining is None:
            continue
        limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
        reset = duration_s(headers.get(f"x-ratelimit-reset-{kind}"))
        if limit is not None and reset is not None:
            found[kind] = Quota(limit, remaining, reset)
    return found


def duration_s(text: str | None) -> float | None:
    """Seconds of "12s", "6m0s", "1ms", "1h2m3.5s" or a bare number; None for anything else."""
    if text is None:
        return None
    bare = _number(text)
    if bare is not None:
        return bare
    text, at, total = text.strip(), 0, 0.0
    for part in _DURATION.finditer(text):
        if part.start() != at:
            return None
        total += float(part["amount"]) * _SECONDS[part["unit"]]
        at = part.end()
    return total if text and at == len(text) else None


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _until(date: str) -> float | None:
    """Seconds until an HTTP date; 0 where it has passed."""
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, TypeError, IndexError):
        return None
