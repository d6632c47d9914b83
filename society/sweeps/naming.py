"""Names of a sweep's members: read off their settings, so that the same settings find the same run.

A name depends on nothing but its own settings. Adding values to a grid, or seeds, leaves the names
of what has run before as they were.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

Path = tuple[str, ...]
"""The parts of a key: ("society", "agents")."""
Settings = Mapping[Path, object]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_VALUE = 24
_LONGEST_POINT = 40


def dotted(path: Path) -> str:
    """A key as it is written in TOML."""
    return ".".join(part if _BARE.fullmatch(part) else json.dumps(part) for part in path)


def point_name(settings: Settings) -> str:
    """Such as "agents-5_w-0.3"; empty where nothing is set."""
    last = [path[-1] for path in settings]
    parts = []
    for path, value in settings.items():
        key = path[-1] if last.count(path[-1]) == 1 else "-".join(path)
        parts.append(f"{_slug(key)}-{_slug(value)}")
    name = "_".join(parts)
    return name if len(name) <= _LONGEST_POINT else f"p-{_hashed(canonical(settings), 10)}"


def member_name(point: str, seed: int) -> str:
    """The part of a run's name that follows that of its sweep."""
    return f"{point}.seed-{seed}" if point else f"seed-{seed}"


def canonical(settings: Settings) -> str:
    """Text that is equal for equal settings, in whatever order they were given."""
    return json.dumps({dotted(path): value for path, value in settings.items()}, sort_keys=True)


def unsafe(name: str) -> bool:
    """Whether a name cannot be part of a run's."""
    return not name or bool(_UNSAFE.search(name)) or not name[0].isalnum()


def _slug(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    safe = _UNSAFE.sub("-", text).strip("-.")[:_LONGEST_VALUE]
    return safe if safe == text else f"{safe}-{_hashed(text, 6)}".strip("-")


def _hashed(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
