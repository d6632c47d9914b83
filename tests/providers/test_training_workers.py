"""Jobs in worker processes end as they do in the run's own process, whatever ends a worker."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from providers.local.engine import Engine
from providers.local.jobs import LocalJobs
from providers.local.lane_plan import plan_lanes
from providers.local.models import LocalModels
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.local.training_lanes import TrainingLanes
from providers.local.worker_process import WorkerSetup
from providers.local.worker_wire import read_spec, write_spec
from providers.types import Example, FinetuneSpec, Hyperparameters, Message, ModelRef

DEADLINE_S = 1200


def make_spec(name, address, *, start=None, steps=4, pairs=False, **how):
    examples = [
        Example(
            (Message("user", f"{n}+{n}"), Message("assistant", f"{2 * n} ü")),
            (1,),
            weight=1.0 + n % 2,
            rejected="7" if pairs else None,
        )
        for n in range(8)
    ]
    settings = {
        "epochs": steps // 2,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "lora_rank": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
    }
    chosen = Hyperparameters(**(settings | ({"objective": "dpo"} if pairs else {}) | how))
    base = ModelRef(address, address)
    return FinetuneSpec(
        name, start or base, examples, "0" * 64, chosen, seed=5, metadata={"run": "here"}
    )


class Machine:
    """The jobs of one model with a worker beside this process, which can be kept busy."""

    def __init__(self, folder: Path, workdir: Path, workers: int = 2) -> None:
        self.address, self.workdir = f"local:{folder}", workdir
        settings = LocalSettings(threads=1, dtype="float32", device="cpu", training_workers=workers)
        source = locate_model(str(folder), settings)
        self.models = LocalModels(source, settings, workdir)
        self.engine = Engine(self.models, settings)
        plan = plan_lanes(settings, "cpu", ())
        setup = WorkerSetup(source, settings, workdir)
        self.jobs = LocalJobs(
            TrainingLanes(self.engine, self.models, plan, setup), workdir, self.address
        )

    def spec(self, name, **how):
        return make_spec(name, self.address, **how)

    def submit(self, spec):
        """Submit a job, and one behind it: a job alone would wait for this process."""
        self.models.expect([spec.start])
        handle = self.jobs.submit(spec)
        self.jobs.submit(self.spec(f"behind-{spec.name}", steps=2))
        return handle

    @contextmanager
    def busy(self):
        """This process takes no job, as while it answers."""
        free = threading.Event()
        self.engine.run(free.wait)
        try:
            yield
        finally:
            free.set()

    def finish(self, handle):
        return self.wait(lambda: (s := self.jobs.poll(handle)).done and s)

    def wait(self, find):
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            if found := find():
                return found
            time.sleep(0.02)
        raise AssertionError("it never happened")

    def close(self):
        self.jobs.close()
        self.engine.close()


def list_workers(process_id=None):
    """The living workers of a process, this one by default."""
    found = []
    for child in psutil.Process(process_id).children():
        try:
            if "worker.py" in " ".join(child.cmdline()) and child.status() != "zombie":
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture
def machine(llama, tmp_path):
    machine = Machine(llama, tmp_path / "models")
    yield machine
    machine.close()


@pytest.fixture
def alone(llama, tmp_path):
    machine = Machine(llama, tmp_path / "alone", workers=1)
    yield machine
    machine.close()


def describe(state):
    """What a job ended with, wherever its folder is."""
    error = state.error and re.sub(r"'/\S*/(\S+)'", r"'\1'", state.error)
    return (
        *(state.status, error, state.fatal, state.points, state.trained_tokens),
        *(state.artifact_sha256, state.base_kl, state.left_out, state.checkpoints, state.note),
    )


# On a busy machine a process takes minutes to import torch.
pytestmark = pytest.mark.timeout(DEADLINE_S)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_job_is_the_same_on_both_sides_of_the_line(pairs):
    spec = make_spec("one", "embedded:", pairs=pairs)
    kept = read_spec(write_spec(spec))
    assert (kept.digest, kept.metadata) == (spec.digest, spec.metadata)
    assert list(kept.examples) == list(spec.examples)
    assert kept.hyperparameters == spec.hyperparameters


def test_a_job_that_was_changed_on_its_way_is_refused():
    row = write_spec(make_spec("one", "embedded:")) | {"seed": 6}
    with pytest.raises(ValueError, match="'one' was changed"):
        read_spec(row)


def test_a_worker_does_what_this_process_does(machine, alone):
    def run_jobs(place):
        first = place.submit(place.spec("first"))
        made = place.finish(first).model
        later = [
            place.spec("second", start=made, steps=6),
            place.spec("third", pairs=True),
            # Faults of all sorts: in the settings, in the data, and in the start model.
            place.spec("fourth", lora_dropout=1.0),
            place.spec("fifth", max_example_tokens=1),
        ]
        states = [place.finish(place.submit(spec)) for spec in later]
        damaged = place.submit(place.spec("sixth", start=replace(made, sha256="0" * 64)))
        return [describe(state) for state in (place.finish(first), *states, place.finish(damaged))]

    with machine.busy():
        there = run_jobs(machine)
    assert there == run_jobs(alone)
    assert [state[0] for state in there] == ["succeeded"] * 3 + ["failed"] * 3


@pytest.mark.long
def test_two_jobs_run_at_a_time_and_end_as_one_after_another(machine, alone):
    names = [f"job-{n}" for n in range(6)]

    def run_jobs(place):
        handles = [place.jobs.submit(place.spec(name, steps=60)) for name in names]
        place.wait(lambda: all(place.jobs.poll(handle).status != "queued" for handle in handles))
        return [describe(place.finish(handle)) for handle in handles]

    assert run_jobs(machine) == run_jobs(alone)
    machine.wait(lambda: not list_workers())


def find_running(machine, handle, points):
    machine.wait(lambda: len(machine.jobs.poll(handle).points) >= points)
    (worker,) = list_workers()
    return worker


@pytest.mark.long
def test_a_killed_worker_repeats_its_job_only(machine, alone):
    with machine.busy():
        before = machine.submit(machine.spec("before"))
        assert machine.finish(before).status == "succeeded"
        handle = machine.submit(machine.spec("killed", steps=400))
        find_running(machine, handle, 5).kill()
        state = machine.finish(handle)
        after = machine.finish(machine.submit(machine.spec("after")))
    assert "broke off: its process ended by signal SIGKILL; its job is repeated" in state.note
    assert after.status == "succeeded"
    assert [point.step for point in state.points] == list(range(1, 401))
    expected = alone.finish(alone.submit(alone.spec("killed", steps=400)))
    assert describe(state)[:-1] == describe(expected)[:-1]


@pytest.mark.long
def test_a_killed_worker_repeats_each_of_its_jobs(machine, alone):
    names = [f"job-{n}" for n in range(4)]
    with machine.busy():
        handles = [machine.jobs.submit(machine.spec(name, steps=200)) for name in names]
        machine.wait(
            lambda: sum(len(machine.jobs.poll(handle).points) > 2 for handle in handles) == 2
        )
        (worker,) = list_workers()
        worker.kill()
        states = [machine.finish(handle) for handle in handles]
    assert sum("its job is repeated" in state.note for state in states) == 2
    expected = [alone.jobs.submit(alone.spec(name, steps=200)) for name in names]
    for state, handle in zip(states, expected, strict=True):
        assert describe(state)[:-1] == describe(alone.finish(handle))[:-1]


@pytest.mark.long
def test_a_job_that_ends_every_worker_fails_with_the_reason(machine):
    with machine.busy():
        handle = machine.submit(machine.spec("deadly", steps=100_000))
        killed = set()
        for _ in range(3):
            machine.wait(lambda: {w.pid for w in list_workers()} - killed)
            machine.wait(lambda: machine.jobs.poll(handle).status == "running")
            (worker,) = list_workers()
            killed.add(worker.pid)
            worker.kill()
            machine.wait(lambda: machine.jobs.poll(handle).status != "running")
        state = machine.finish(handle)
        assert (state.status, state.fatal) == ("failed", True)
        assert "3 workers broke off in this job" in state.error
        assert "SIGKILL" in state.error
        assert "training_workers = 1" in state.error
        # Another job is not affected.
        assert machine.finish(machine.submit(machine.spec("next"))).status == "succeeded"


@pytest.mark.long
def test_a_stopped_job_keeps_its_checkpoint_and_resumes(machine, alone):
    spec = machine.spec("stopped", steps=3000)
    with machine.busy():
        handle = machine.submit(spec)
        find_running(machine, handle, 5)
        machine.jobs.cancel(handle)
        state = machine.finish(handle)
        assert state.status == "cancelled"
        assert 5 <= len(state.points) < 3000
        assert machine.jobs.find(spec) is None
        again = machine.finish(machine.submit(spec))
    expected = alone.finish(alone.submit(alone.spec("stopped", steps=3000)))
    assert describe(again) == describe(expected)


@pytest.mark.long
def test_closing_stops_jobs_and_ends_workers(machine):
    with machine.busy():
        running = machine.submit(machine.spec("running", steps=100_000))
        waiting = machine.jobs.submit(machine.spec("waiting"))
        find_running(machine, running, 3)
        machine.jobs.close()
    assert machine.jobs.poll(running).status == "cancelled"
    assert machine.jobs.poll(waiting).status == "cancelled"
    assert list_workers() == []
    assert list(machine.workdir.glob(".running.*"))


@pytest.mark.long
def test_a_worker_that_cannot_load_the_model_leaves_the_jobs_to_this_process(llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "base")
    machine = Machine(folder, tmp_path / "models")
    machine.engine.run(lambda: machine.models.base).result()
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with machine.busy():
        handles = [machine.jobs.submit(machine.spec(name)) for name in ("one", "two")]
        machine.wait(lambda: machine.jobs.poll(handles[0]).note)
    states = [machine.finish(handle) for handle in handles]
    machine.close()
    assert [state.status for state in states] == ["succeeded"] * 2
    assert "fewer jobs are trained at the same time: ModelNotFound" in states[0].note
    assert str(folder) in states[0].note


PARENT = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_training_workers import Machine, list_workers
machine = Machine(Path({folder!r}), Path({workdir!r}))
with machine.busy():
    handle = machine.submit(machine.spec("orphan", steps=1_000_000))
    machine.wait(lambda: len(machine.jobs.poll(handle).points) >= 2)
    print(*[worker.pid for worker in list_workers()], flush=True)
    time.sleep(600)
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_run(llama, tmp_path, number):
    program = PARENT.format(
        tests=str(Path(__file__).parent), folder=str(llama), workdir=str(tmp_path / "models")
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as parent:
        (worker,) = map(int, parent.stdout.readline().split())
        assert psutil.pid_exists(worker)
        # Ctrl-C in a terminal, or a scheduler's SIGTERM for all, is left to the run.
        for harmless in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(worker, harmless)
        parent.send_signal(number)
        parent.wait()
    until = time.monotonic() + DEADLINE_S
    while psutil.pid_exists(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not psutil.pid_exists(worker)
