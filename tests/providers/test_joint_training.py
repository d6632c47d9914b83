"""Jobs that share their passes learn what they learn by themselves, whoever is beside them."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from providers import registry
from providers.local.joint_plan import find_joint_faults, plan_joint
from providers.local.joint_training import carry_out, train_together
from providers.local.memory import measure_model
from providers.local.models import LocalModels
from providers.local.pieces import complete
from providers.local.settings import LocalSettings
from providers.local.shared_adapter import CannotShare
from providers.local.shared_base import share_base
from providers.local.source import locate_model, read_config
from providers.local.train import train_in_steps
from providers.local.training_run import TrainingRun
from providers.types import Example, FinetuneSpec, Hyperparameters, Message, ModelRef

ROOT = Path(__file__).parents[2]
# Six jobs that differ in everything that is a job's own.
KINDS = (
    {},
    {"lora_dropout": 0.2, "weight_decay": 0.1},
    {"lora_rank": 16, "lora_alpha": 8, "batch_size": 3, "epochs": 3},
    {"target_modules": ("q_proj", "down_proj"), "schedule": "linear", "warmup": 0.5},
    {"max_grad_norm": 0.01, "use_rslora": True, "schedule": "constant"},
    {"max_example_tokens": 30, "learning_rate": 5e-2},
)
NEAR = 1e-4
# On a busy machine a process takes minutes to import torch.
pytestmark = pytest.mark.timeout(1200)


def make_examples(count, seed=0):
    return [
        Example(
            (
                Message("user", f"{n}+{n + seed}"),
                Message("assistant", f"{2 * n + seed} so " * (n % 5)),
            ),
            (1,),
            weight=1.0 + n % 2,
        )
        for n in range(1, count + 1)
    ]


def make_spec(number, **how):
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "lora_rank": 4}
    chosen = Hyperparameters(**(settings | {"lora_alpha": 8} | how))
    return FinetuneSpec(
        f"job-{number}",
        ModelRef("base", "local:base"),
        make_examples(5 + number, number),
        f"{number}" * 64,
        chosen,
        seed=number,
        validation=make_examples(number % 2, 50),
        validation_sha256="v" * 64 if number % 2 else None,
    )


SPECS = [make_spec(number, **kind) for number, kind in enumerate(KINDS)]


class Place:
    """The jobs of one model in one folder."""

    def __init__(self, folder, workdir, **settings):
        chosen = {"threads": 1, "dtype": "float32", "device": "cpu"} | settings
        self.settings = LocalSettings(**chosen)
        self.workdir = workdir
        self.models = LocalModels(
            locate_model(str(folder), self.settings), self.settings, workdir, self_check=False
        )

    def make(self, specs, **seen):
        runs = [TrainingRun(spec, self.workdir / spec.name, **seen) for spec in specs]
        self.models.expect(spec.start for spec in specs)
        return runs

    def train_together(self, specs):
        train_together(self.models, runs := self.make(specs))
        return runs

    def train_apart(self, specs):
        runs = self.make(specs)
        for run in runs:
            run.train(self.models)
        return runs


def read_weights(run):
    return load_file(run.trained.artifact / "adapter_model.safetensors")


def require_alike(one, other):
    """The two runs of a job differ by rounding only."""
    assert (one.status, one.error, one.note) == (other.status, other.error, other.note)
    first, second = one.trained, other.trained
    for name in ("loss", "learning_rate"):
        values = ([getattr(point, name) for point in t.points] for t in (first, second))
        assert next(values) == pytest.approx(next(values), rel=NEAR, abs=NEAR)
    assert (first.trained_tokens, first.left_out) == (second.trained_tokens, second.left_out)
    assert [c.step for c in first.measured] == [c.step for c in second.measured]
    assert [c.loss for c in first.measured] == pytest.approx(
        [c.loss for c in second.measured], abs=NEAR
    )
    assert first.base_kl == pytest.approx(second.base_kl, rel=1e-3, abs=1e-5)
    weights = read_weights(other)
    assert read_weights(one).keys() == weights.keys()


def list_hashes(runs):
    return [run.trained and run.trained.sha256 for run in runs]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Bits are promised for one thread; and threads that wait for each other starve when busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def together(llama, tmp_path_factory):
    place = Place(llama, tmp_path_factory.mktemp("together"))
    return place.train_together(SPECS)


def test_each_job_has_the_losses_that_it_has_by_itself(llama, tmp_path, together):
    for one, other in zip(together, Place(llama, tmp_path).train_apart(SPECS), strict=True):
        require_alike(one, other)
    assert sum(bool(run.trained.measured) for run in together) == 3
    assert together[5].trained.left_out


def test_no_bit_depends_on_who_is_beside(llama, tmp_path, together):
    place = Place(llama, tmp_path)
    runs = [*place.train_together(SPECS[3:]), *place.train_together(SPECS[:1])]
    runs += [run for spec in SPECS[1:3] for run in place.train_together([spec])]
    runs.sort(key=lambda run: run.spec.name)
    assert list_hashes(runs) == list_hashes(together)
    assert [run.points for run in runs] == [run.points for run in together]


def test_a_later_training_continues_from_the_adapters(llama, tmp_path):
    def run_twice(place, train):
        (first,) = train(SPECS[:1])
        start = ModelRef("first", "local:base", first.spec.name, first.trained.sha256)
        return train([replace(spec, start=start) for spec in SPECS[1:2] + SPECS[4:5]])

    apart, together = Place(llama, tmp_path / "a"), Place(llama, tmp_path / "b")
    expected = run_twice(apart, apart.train_apart)
    # The last job scales otherwise than the first, which both places refuse.
    for one, other in zip(run_twice(together, together.train_together), expected, strict=True):
        assert one.status == other.status
        if one.trained:
            require_alike(one, other)
        else:
            assert "use_rslora = True (there: False) differ from the adapter" in one.error


def test_the_base_is_as_it_was_afterwards(llama, tmp_path):
    place = Place(llama, tmp_path)
    base = place.models.base
    tokens_1_6 = torch.arange(6)[None]
    before = base.model(tokens_1_6).logits
    attention = base.model.config._attn_implementation
    place.train_together(SPECS[:2])
    assert torch.equal(base.model(tokens_1_6).logits, before)
    assert base.model.config._attn_implementation == attention
    assert not base.model.training
    assert not any("forward" in vars(module) for module in base.model.modules())
    assert not any(weight.requires_grad for weight in base.model.parameters())


def test_jobs_end_by_themselves_and_others_join(llama, tmp_path, together):
    """One diverges, one is stopped, one is refused, and two come later."""
    place = Place(llama, tmp_path)

    def stop_soon(news, progress):
        if progress > 0.3:
            stopped.stop.set()

    (stopped,) = place.make(SPECS[2:3], on_news=stop_soon)
    bad = [make_spec(7, learning_rate=1e9), make_spec(8, lora_dropout=1.0)]
    diverged, refused = place.make(bad)
    first, *later = place.make([SPECS[0], SPECS[1], SPECS[4]])
    waiting = list(later)

    def take_more():
        return [waiting.pop()] if waiting and first.points else []

    train_together(place.models, [stopped, diverged, refused, first], take_more)
    assert [run.status for run in (stopped, diverged, refused)] == ["cancelled", "failed", "failed"]
    assert "diverged" in diverged.error
    assert "lora_dropout = 1.0" in refused.error
    assert list_hashes([first, *later]) == list_hashes([together[n] for n in (0, 1, 4)])
    # The stopped one goes on from its checkpoint.
    assert 0 < len(stopped.points) < len(together[2].points)
    (again,) = place.train_together(SPECS[2:3])
    assert list_hashes([again]) == list_hashes(together[2:3])


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.providers.test_joint_training import SPECS, Place, train_together

torch.set_num_threads(1)
place = Place(sys.argv[1], Path(sys.argv[2]))

def kill(news, progress):
    if progress > 0.2:
        os.kill(os.getpid(), signal.SIGKILL)

runs = [*place.make(SPECS[:2]), *place.make(SPECS[2:3], on_news=kill)]
for run in runs:
    run.checkpoint_seconds = 0
train_together(place.models, runs)
"""


def test_a_killed_pass_goes_on_from_each_jobs_checkpoint(llama, tmp_path, together):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(llama), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    left = {path.name for path in tmp_path.iterdir()}
    assert {f".job-{n}.checkpoint" for n in range(3)} <= left
    place = Place(llama, tmp_path)
    # Others are beside them now than were before.
    runs = [*place.train_together([SPECS[2], SPECS[5]]), *place.train_together(SPECS[:2])]
    assert list_hashes(runs) == list_hashes([together[n] for n in (2, 5, 0, 1)])


def test_a_pass_that_memory_cannot_hold_has_fewer_pieces(llama, tmp_path, together):
    place = Place(llama, tmp_path)
    sizes = []

    def refuse(layer, inputs):
        sizes.append(inputs[0].shape[1])
        if layer.training and inputs[0].shape[1] > 160:
            raise MemoryError

    layer = place.models.base.model.model.layers[1]
    hook = layer.register_forward_pre_hook(refuse)
    runs = place.train_together(SPECS)
    hook.remove()
    assert max(sizes) > 160
    assert list_hashes(runs) == list_hashes(together)


def test_an_example_that_memory_cannot_hold_is_trained_in_passes_of_its_own(llama, tmp_path):
    """Only there its activations are computed again; here that does not help either."""
    place = Place(llama, tmp_path)

    def refuse(layer, inputs):
        if layer.training and inputs[0].shape[1] > 8:
            raise MemoryError

    hook = place.models.base.model.model.layers[1].register_forward_pre_hook(refuse)
    (run,) = place.train_together(SPECS[:1])
    hook.remove()
    assert (run.status, run.fatal) == ("failed", True)
    assert "a single example" in run.error
    assert "passes of its own" in run.note


async def watch(provider, specs):
    """The jobs' ends, and the most that were seen at work at a time."""
    handles = [await provider.submit(spec) for spec in specs]
    most = 0
    while True:
        states = [await provider.poll(handle) for handle in handles]
        at_work = sum(state.status == "running" and bool(state.points) for state in states)
        most = max(most, at_work)
        if all(state.done for state in states):
            return states, most
        await asyncio.sleep(0.01)


async def test_a_provider_trains_the_jobs_together_that_wait(tmp_path):
    ends = []
    for way, expected in ((3, 3), ("off", 1)):
        settings = {"joint_training": way, "training_workers": 1}
        provider = registry.connect("embedded:", settings, tmp_path / str(way))
        assert (provider.capabilities.max_parallel_jobs == 1) is (way == "off")
        specs = [
            replace(spec, start=provider.base, validation=(), validation_sha256=None)
            for spec in SPECS[:4]
        ]
        states, most = await watch(provider, specs)
        await provider.close()
        assert [state.status for state in states] == ["succeeded"] * 4
        assert most == expected
        ends.append(states)
    for one, other in zip(*ends, strict=True):
        losses = [[point.loss for point in state.points] for state in (one, other)]
        assert losses[0] == pytest.approx(losses[1], abs=NEAR)


@pytest.mark.parametrize("kind", ["qwen2", "neox"])
def test_other_families_share_their_passes(tmp_path, make_model, kind):
    folder = make_model(tmp_path / kind, kind)
    place = Place(folder, tmp_path / "b")
    (one,) = place.train_together(SPECS[:1])
    assert place.models.base.shares
    (other,) = Place(folder, tmp_path / "a").train_apart(SPECS[:1])
    require_alike(one, other)


def test_a_model_whose_rows_cannot_be_packed_trains_one_after_the_other(tmp_path, make_model):
    folder = make_model(tmp_path / "mistral", "mistral")
    place = Place(folder, tmp_path / "b")
    with pytest.raises(CannotShare, match="attention"), share_base(place.models.base):
        pass
    runs = place.train_together(SPECS[:1])
    apart = Place(folder, tmp_path / "a").train_apart(SPECS[:1])
    assert list_hashes(runs) == list_hashes(apart)
    assert "one after the other: its attention" in runs[0].note


@pytest.mark.parametrize(("dtype", "mixed"), [("bfloat16", True), ("bfloat16", False)])
def test_products_are_those_of_a_training_alone_in_bfloat16(llama, tmp_path, dtype, mixed):
    """To its rounding. It is the number type of graphics cards, with "mixed" products."""
    base, spec = Place(llama, tmp_path, dtype=dtype).models.base, SPECS[2]
    how = {"device": "cpu", "bf16": mixed, "stop": threading.Event()}

    def train(model, name):
        steps = train_in_steps(
            model, base.tokenizer, spec, tmp_path / name, on_point=lambda *_: None, **how
        )
        return complete(steps)

    with base.prepare_training(None, spec.hyperparameters, spec.seed) as tuned:
        apart = train(tuned, "apart")
    with share_base(base) as shared:
        adapter = shared.add(None, spec.hyperparameters, spec.seed)
        together = train(adapter, "together")
    assert {weight.dtype for weight in adapter.weights.values()} == {torch.float32}
    losses = [[point.loss for point in trained.points] for trained in (apart, together)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0][-1] < losses[0][0]


def check(settings=None, *, on_cpu=True, **how):
    chosen = LocalSettings(**({"threads": 1} | (settings or {})))
    return find_joint_faults(chosen, Hyperparameters(**how), on_cpu=on_cpu)


def test_what_takes_passes_of_its_own_is_named(llama, tmp_path):
    assert check() == []
    assert check(objective="dpo") == ["finetune.objective = 'dpo'"]
    assert check(anchor=0.1, use_dora=True) == ["finetune.anchor = 0.1", "finetune.use_dora = true"]
    assert check(settings={"joint_training": "off"}) == ["[provider] joint_training = 'off'"]
    assert check(settings={"threads": 2}) != []
    assert check(settings={"threads": 2, "joint_training": 2}) == []
    assert check(settings={"threads": 2}, on_cpu=False) == []
    assert check(lora_dropout=0.1) == []
    assert len(check(lora_dropout=0.1, on_cpu=False)) == 1
    assert check(settings={"quantization": "nf4"}) == ["[provider] quantization = 'nf4'"]
    place = Place(llama, tmp_path)
    (run,) = place.make([replace(SPECS[0], hyperparameters=Hyperparameters(objective="dpo"))])
    carry_out(place.models, [run])
    assert run.status == "failed"
    assert not place.models.base.shares


def test_the_number_of_adapters_follows_setting_and_memory(llama):
    settings = LocalSettings(threads=1)
    source = locate_model(str(llama), settings)
    size = measure_model(llama, None, read_config(source))
    how = Hyperparameters()
    each = size.estimate_training(how)
    assert plan_joint(settings, how, size, 1 << 40).adapters == 16
    assert plan_joint(settings, how, size, 12 * each).adapters == 3
    assert "by the memory" in str(plan_joint(settings, how, size, 12 * each))
    assert plan_joint(settings, how, size, 1).adapters == 1
    assert plan_joint(LocalSettings(joint_training=5), how, size, 1).adapters == 5
    alone = plan_joint(settings, Hyperparameters(method="full"), size, 1 << 40)
    assert str(alone) == "each adapter is trained in passes of its own (finetune.method = 'full')"
