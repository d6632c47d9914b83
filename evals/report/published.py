"""The numbers of the paper, to stand beside one's own: quoted, never ours.

Subramaniam et al., "Multiagent Finetuning: Self Improvement with Diverse Reasoning Chains", ICLR
2025, arXiv 2501.05707, Table 1, and its text for MMLU. Accuracy in %; 3 agents, 2 rounds, one
iteration, 500 questions; MATH of levels 1 to 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CITATION = (
    "Subramaniam et al., “Multiagent Finetuning: Self Improvement with Diverse Reasoning Chains”, "
    "ICLR 2025, arXiv 2501.05707, Table 1"
)
MODELS = ("GPT-3.5", "Phi-3 4B", "Mistral 7B", "LLaMA-3 8B")
# Kept apart from the runs' facts: other models, prompts and questions, so no table mixes them.
_TABLE: dict[str, dict[str, tuple[float | None, ...]]] = {
    "arithmetic": {
        "base": (81.99, 88.30, 10.80, 43.20),
        "majority": (94.40, 91.80, 14.80, 45.80),
        "debate": (98.21, 96.20, 19.60, 48.40),
        "star": (98.38, 94.80, 17.40, None),
        "majority-ft": (98.40, 93.80, 16.40, 49.20),
        "multiagent": (99.62, 99.40, 22.60, 52.00),
    },
    "gsm8k": {
        "base": (75.60, 81.20, 35.60, 75.00),
        "majority": (81.20, 81.80, 41.80, 76.40),
        "debate": (83.30, 84.40, 52.60, 78.40),
        "star": (83.60, 85.80, 45.50, None),
        "majority-ft": (83.70, 82.20, 44.60, 77.20),
        "multiagent": (85.60, 88.60, 58.40, 88.60),
    },
    "math": {
        "base": (46.83, 45.60, 16.60, 46.80),
        "majority": (51.40, 47.20, 16.80, 47.20),
        "debate": (55.73, 53.40, 18.20, 51.60),
        "star": (53.00, 51.80, 17.84, None),
        "majority-ft": (53.40, 48.60, 18.91, 52.20),
        "multiagent": (60.60, 58.80, 22.50, 57.40),
    },
    "mmlu": {
        "base": (None, None, None, 60.4),
        "debate": (None, None, None, 65.8),
        "majority-ft": (None, None, None, 63.4),
        "multiagent": (None, None, None, 68.8),
    },
}


@dataclass(frozen=True, slots=True)
class Published:
    """One method's accuracies in % by model, in the order of `MODELS`; None: not published."""

    task: str
    arm: str
    accuracies: tuple[float | None, ...]


def find_published(tasks: Sequence[str]) -> list[Published]:
    """The paper's results on those of the tasks that it has; tasks by their names."""
    return [
        Published(task, arm, accuracies)
        for task in tasks
        for arm, accuracies in _TABLE.get(task, {}).items()
    ]
