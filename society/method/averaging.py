"""The averaged society: of each agent's generators, one of every iteration, the weighted mean.

An iteration counts `consensus.average_decay` times as much as the next one. The weights are scaled
to sum to 1, and the untuned base is no part of the mean, so that it begins at the first tuned
generator: over a few iterations, an average that starts at the base would be mostly the base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from providers.base import Provider
from providers.types import AverageSpec, ModelRef, ModelShare
from society.method.arms import Arm
from society.method.experiment import RunContext
from society.method.finetuning import load_society
from store.ledger import Store
from store.records import Model, ModelPart

_PARTS = """
SELECT part.model_id, part.provider, part.artifact, part.sha256, weight
FROM averages AS a
JOIN models AS part ON part.model_id = a.parent_id
WHERE a.model_id = ?
ORDER BY part.iteration, part.model_id
"""


async def average_generators(run: RunContext, arm: Arm, iteration: int) -> Sequence[ModelRef]:
    """The averaged generator of every agent after `iteration` iterations, in the agents' order."""
    untuned = run.connections.start_society(arm.agents)
    societies = [
        load_society(run.store, untuned, passed, arm.name) for passed in range(iteration + 1)
    ]
    decay = run.config.for_arm(arm.name).consensus.average_decay
    averaged: list[ModelRef] = []
    for number in range(1, arm.agents + 1):
        generators = [society.model(number, "generator") for society in societies]
        spec = describe_average(run.name, generators, decay)
        if spec is None:
            averaged.append(generators[-1])
            continue
        agent = 0 if arm.shares_models else number
        made = run.store.model(spec.name)
        if made is None:
            provider = run.connections[spec.parts[-1].model.address]
            made = await _make_average(run, provider, spec, (iteration, arm.name, agent))
        averaged.append(ModelRef(made.model_id, made.provider, made.artifact, made.sha256))
    return averaged


def describe_average(run: str, generators: Sequence[ModelRef], decay: float) -> AverageSpec | None:
    """The average of an agent's generators, ordered from the base to the newest; None if it is one
    of them."""
    weights: dict[ModelRef, float] = {}
    for age, model in enumerate(reversed(generators)):
        # An agent that kept its model has it in several iterations.
        if model.artifact is not None and (weight := decay**age):
            weights[model] = weights.get(model, 0.0) + weight
    if set(weights) <= {generators[-1]}:
        return None
    total = sum(weights.values())
    parts = tuple(ModelShare(model, weights[model] / total) for model in reversed(weights))
    facts = [[part.model.model_id, part.weight] for part in parts]
    # Named by what it is made of: arms that share their models share their averages too.
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return AverageSpec(f"{run}-average-{name}", parts)


async def _make_average(
    run: RunContext, provider: Provider, spec: AverageSpec, place: tuple[int, str, int]
) -> Model:
    made = await provider.average_models(spec)
    iteration, arm, agent = place
    model = Model(
        model_id=spec.name,
        provider=made.model.address,
        parent_id=spec.parts[-1].model.model_id,
        artifact=made.model.artifact,
        sha256=made.model.sha256,
        iteration=iteration,
        arm=arm,
        agent=agent,
        role="generator",
        truncation=made.truncation,
    )
    shares = (ModelPart(spec.name, part.model.model_id, part.weight) for part in spec.parts)
    run.store.write(model, *shares)
    return model


def rebuild_average(store: Store, model_id: str) -> AverageSpec | None:
    """The average that a stored model was made as; None if it is no average."""
    parts = tuple(
        ModelShare(ModelRef(parent, provider, artifact, sha256), weight)
        for parent, provider, artifact, sha256, weight in store.rows(_PARTS, [model_id])
    )
    return AverageSpec(model_id, parts) if parts else None
