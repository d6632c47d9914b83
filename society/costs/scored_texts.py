"""How many texts the measures of diversity let models score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from providers import registry
from society.config.schema import Config
from society.method.arms import Arm
from store.records import AgentRole

# A likelihood asks for the prompt with the text and without it, to find where the text begins.
REQUESTS_PER_TEXT = 2

_ModelKey = tuple[str, int]
"""The address of a base, and which of the models tuned from it: an agent's, or 0, the base."""


def count_scored_texts(
    config: Config, arm: Arm, role: AgentRole, decoding: str, *, tuned: bool
) -> Counter[tuple[str, bool]]:
    """How many texts of one question each address scores, with its base and with tuned models.

    As `evals.diversity` asks: each text once of each model that some measure needs. Models without
    likelihoods are left out, and so are local ones, which measure in another way, for free.
    """
    if decoding not in config.diversity.decodings:
        return Counter()
    models = [_find_model(config, arm, role, agent, tuned) for agent in range(1, arm.agents + 1)]
    count: Counter[tuple[str, bool]] = Counter()
    for place, own in enumerate(models):
        others = models[:place] + models[place + 1 :]
        for address, number in set(_list_needed(config, own, others, decoding)):
            if registry.gives_scores(address, config.settings_of(address)):
                count[address, number > 0] += 1
    return count


def _find_model(config: Config, arm: Arm, role: AgentRole, agent: int, tuned: bool) -> _ModelKey:
    address = config.base_address(agent)
    if not tuned or role not in arm.tuned:
        return address, 0
    return address, 1 if arm.shares_models else agent


def _list_needed(
    config: Config, own: _ModelKey, others: list[_ModelKey], decoding: str
) -> Iterator[_ModelKey]:
    measures = config.diversity.measures
    if "nll" in measures:
        yield from others
    # Divergences are estimated from samples; a greedy answer is none.
    if decoding == "greedy":
        return
    base = own[0], 0
    compared = [*others] if "kl" in measures else []
    compared += [base] if "kl_base" in measures else []
    for other in compared:
        if other != own and other[0] == own[0]:
            yield own
            yield other
