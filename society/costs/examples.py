"""How many rows datasets will have, estimated before any debate."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from finetune.mixture import bound_repeats, count_repeats, mix_conversations
from providers import registry
from society.config.schema import Config
from society.config.training import DatasetsSection
from society.costs.lengths import Range
from society.method.arms import Arm
from society.method.finetuning import SHAPES
from store.records import AgentRole

LEARNABLE_LOW, LEARNABLE = 0.2, 0.7
CORRECTED = 0.1
CRITIC_SHARE_LOW = 0.05


def count_examples(
    config: Config, arm: Arm, agent: int, role: AgentRole, asked: int, iteration: int
) -> Range:
    """Rows of the dataset of an agent's role, if `asked` questions are asked in each iteration.

    With the rows of earlier iterations that are learnt again, and the repeats for a provider that
    takes no weights.

    ```python
    count_examples(config, arm, 1, "critic", 500, iteration=1).expected  # 400.0
    ```
    """
    section = config.for_arm(arm.name).datasets
    earlier, novelty = min(section.replayed, iteration - 1), section.novelty or 1.0
    questions = asked * (1 + section.replay_share * earlier) * novelty
    # Which questions are replayed is left to a hash, and shares of rows are rounded up.
    most = float(min(asked * (1 + earlier), ceil(asked * (1 + earlier) * novelty)))
    shape = SHAPES[config.for_arm(arm.name).finetune.objective]
    if shape != "answers":
        # Pairs need a right and a wrong answer of one agent; any readable answer is feedback.
        most = min(most, section.max_examples or most)
        count = Range(0.0, min(questions * (CORRECTED if shape == "pairs" else 1.0), most), most)
    elif role == "generator":
        count = _count_generator_examples(questions, most, section)
    else:
        count = _count_critic_examples(config, questions, most, arm, agent)
    if section.margin is not None:
        count = replace(count, low=0.0)
    if section.margin_weights and not _takes_weights(config, agent):
        # The smallest share of votes that a label can have, and how often its whole fits in.
        voters = arm.train_agents * arm.label_samples
        least = max((section.margin or (0.0, 1.0))[0], 1 / voters)
        count = Range(count.low, count.expected * min(2.0, 1 / least), count.high / least)
    return count


def _takes_weights(config: Config, agent: int) -> bool:
    return registry.info(config.base_address(agent)).weights


def _count_generator_examples(questions: float, most: float, section: DatasetsSection) -> Range:
    most = min(most, section.max_examples or most)
    low, expected = LEARNABLE_LOW * questions, LEARNABLE * questions
    return Range(min(low, most), min(expected, most), most)


def _count_critic_examples(
    config: Config, questions: float, most: float, arm: Arm, agent: int
) -> Range:
    section = config.for_arm(arm.name).datasets
    if section.critic_first_answers:
        most *= 2
    most = min(most, section.max_examples or most)
    corrected, kept = round(CORRECTED * questions), round(LEARNABLE * questions)
    if section.critic_first_answers:
        kept *= 2
    mixture = mix_conversations(corrected, kept, section.critics, arm.w, section.max_examples)
    expected, high = float(mixture.corrected + mixture.kept), float(most)
    if not _takes_weights(config, agent):
        expected, high = count_repeats(mixture), bound_repeats(most, section.critics, arm.w)
    # Debates that end after round 1 have no critic's conversation.
    low = 0.0 if arm.ends_early("train") else min(CRITIC_SHARE_LOW * questions, expected)
    return Range(low, expected, high)
