"""Multiagent finetuning: a society of language models that debates, votes and fine-tunes itself.

*Providers speak, society debates, store remembers, finetune teaches, evals judge.*

The five packages are installed side by side under common names, so this one makes sure on import
that its siblings are its own.
"""

from society.siblings import load

__version__ = "0.1.0"

load()
