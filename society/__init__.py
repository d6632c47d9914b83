"""Multiagent finetuning: a society of language models that debates, votes and fine-tunes itself.

*Providers speak, society debates, store remembers, finetune teaches, evals judge.*

From Python, `society.load_config` reads an experiment, `society.run` runs it, and `society.load`
(in full: `society.open_run`) opens a run, to query it and to ask its society (docs/python.md). Each
loads what it needs when it is first used, so that importing `society` is quick.

The five packages are installed side by side under common names, so this one makes sure on import
that its siblings are its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from society.siblings import load_siblings

if TYPE_CHECKING:
    from society.notebook import load, load_config, open_run, run

__all__ = ["__version__", "load", "load_config", "open_run", "run"]
__version__ = "0.1.0"

load_siblings()


def __getattr__(name: str) -> object:
    if name in ("load", "load_config", "open_run", "run"):
        from society import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'society' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
