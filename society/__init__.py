"""Multiagent finetuning: a society of language models that debates, votes and fine-tunes itself.

*Providers speak, society debates, store remembers, finetune teaches, evals judge.*

The five packages are installed side by side under common names, so this one makes sure on import
that its siblings are its own.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"


def _check_siblings() -> None:
    home = Path(__file__).resolve().parent.parent
    for name in ("providers", "store", "finetune", "evals"):
        spec = find_spec(name)
        places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
        if not any(place and Path(place).resolve().is_relative_to(home) for place in places):
            found = f"comes from {places[0]}" if places else "is missing"
            raise ImportError(
                f"package {name!r} {found}, not from {home}: install multiagent-finetuning in an "
                "environment of its own and start it from outside folders that have such a package"
            )


_check_siblings()
