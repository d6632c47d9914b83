"""Sizes of files as text."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB")


def format_size(count: float) -> str:
    """A number of bytes in two or three digits: 999 B, 1.2 MB, 35 GB."""
    value = float(count)
    for unit in _UNITS:
        # What would be rounded to 1000 belongs to the next unit.
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 9.95 else f"{value:.1f} {unit}"
