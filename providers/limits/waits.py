"""How long a server asks to wait, as vendors write it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_DURATION = re.compile(r"(?P<amount>\d+(?:\.\d+)?)(?P<unit>ms|us|µs|d|h|m|s)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the next try, by `retry-after-ms`, else by `retry-after`: a number of seconds,
    an HTTP date or a duration. None if the headers, whose names are in small letters, do not say.

    >>> parse_retry_after({"retry-after": "12.5s"})
    12.5
    """
    # The more exact of the two, where a server sends both.
    milliseconds = parse_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    written = headers.get("retry-after")
    seconds = parse_duration(written)
    return _parse_date(written) if seconds is None and written else seconds


def parse_duration(text: str | None) -> float | None:
    """Seconds of "12s", "6m0s", "1ms", "1h2m3.5s" or a bare number; None for anything else."""
    if text is None:
        return None
    bare = parse_number(text)
    if bare is not None:
        return bare
    text, at, total = text.strip(), 0, 0.0
    for part in _DURATION.finditer(text):
        if part.start() != at:
            return None
        total += float(part["amount"]) * _SECONDS[part["unit"]]
        at = part.end()
    return total if text and at == len(text) else None


def parse_number(text: str | None) -> float | None:
    """A finite number that is not negative; None for anything else."""
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _parse_date(date: str) -> float | None:
    """Seconds until an HTTP date; 0 if it has passed."""
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, TypeError, IndexError):
        return None
