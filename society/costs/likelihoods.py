"""How often a measurement of diversity asks for the likelihood of a text, before it is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from providers import registry
from society.config.schema import Config
from society.method.arms import Arm
from store.records import AgentRole

# With and without the text, so that it shows where the text begins.
REQUESTS = 2

Model = tuple[str, int]
"""The address of a base, and which of the models tuned from it: an agent's, or 0, the base."""


def scored(
    config: Config, arm: Arm, role: AgentRole, decoding: str, *, tuned: bool
) -> Counter[tuple[str, bool]]:
    """Texts of one question that are shown to the models at an address, or to those tuned from it.

    Like `evals.diversity.likelihood.wishes`: each text once to each model that any measure needs.
    Models without likelihoods are not asked; those that run here measure otherwise, for nothing.
    """
    if decoding not in config.diversity.decodings:
        return Counter()
    models = [_model(config, arm, role, agent, tuned) for agent in range(1, arm.agents + 1)]
    count: Counter[tuple[str, bool]] = Counter()
    for place, own in enumerate(models):
        others = models[:place] + models[place + 1 :]
        for address, number in set(_needed(config, own, others, decoding)):
            if registry.gives_scores(address, config.settings_of(address)):
                count[address, number > 0] += 1
    return count


def _model(config: Config, arm: Arm, role: AgentRole, agent: int, tuned: bool) -> Model:
    address = config.base_address(agent)
    if not tuned or role not in arm.tuned:
        return address, 0
    return address, 1 if arm.shares_models else agent


def _needed(config: Config, own: Model, others: list[Model], decoding: str) -> Iterator[Model]:
    measures = config.diversity.measures
    if "nll" in measures:
        yield from others
    if decoding == "greedy":
        return
    base = own[0], 0
    compared = [*others] if "kl" in measures else []
    compared += [base] if "kl_base" in measures else []
    for other in compared:
        if other != own and other[0] == own[0]:
            yield own
            yield other
