"""What LoRA trains and what it starts from, on tiny models from random weights."""

from itertools import combinations

import pytest
import torch

from finetune.plans import derive_training_seed
from providers.local.backbone import Backbone
from providers.local.schedule import list_step_members
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.types import Hyperparameters

OWNERS = [(agent, role) for agent in (1, 2, 3, 4) for role in ("generator", "critic")]


@pytest.fixture(scope="module")
def backbone(llama):
    settings = LocalSettings(device="cpu", dtype="float32", threads=1)
    return Backbone(locate_model(str(llama), settings), settings)


def read_fresh_factors(backbone, seed):
    """All lora_A of a fresh adapter, as one vector."""
    with backbone.prepare_training(None, Hyperparameters(lora_rank=4), seed) as model:
        factors = [w.detach().flatten() for n, w in model.named_parameters() if "lora_A" in n]
        return torch.cat(factors).clone()


def test_every_agent_and_role_starts_from_random_weights_of_its_own(backbone):
    seeds = [derive_training_seed(0, 1, agent, role) for agent, role in OWNERS]
    fresh = [read_fresh_factors(backbone, seed) for seed in seeds]
    cosines = [torch.cosine_similarity(a, b, dim=0).abs() for a, b in combinations(fresh, 2)]
    # Of 3,584 independent numbers: the standard deviation is 0.017.
    assert max(cosines) < 0.08
    assert torch.equal(read_fresh_factors(backbone, seeds[0]), fresh[0])


def test_every_agent_role_iteration_and_run_has_examples_in_an_order_of_its_own():
    seeds = {
        derive_training_seed(seed, iteration, agent, role)
        for seed in (0, 1, 2**63 - 1)
        for iteration in (1, 2)
        for agent, role in [(0, "generator"), *OWNERS]
    }
    assert len(seeds) == 3 * 2 * 9
    assert all(0 <= seed < 2**31 for seed in seeds)
    orders = {tuple(list_step_members(100, 100, seed, step=0)) for seed in seeds}
    assert len(orders) == len(seeds)
