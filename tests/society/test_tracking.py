"""Trackers get a run's figures once each, in order, and can neither stop nor slow a run.

Runs answer from a script. What was logged is read back from the trackers' own files; trackers whose
package is not installed are skipped.
"""

import asyncio
import os
import signal
import struct
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from providers import extras
from society.checks.trackers import check_trackers
from society.config.load import load_config
from society.method.experiment import resolve
from society.method.progress import Note, PartFinished
from society.runs import folder as folders
from society.runs import runner
from society.runs.tracking.figures import read_figures, thin_out
from society.runs.tracking.parameters import list_parameters
from society.runs.tracking.session import TrackingSession
from society.runs.tracking.tracker import TrackerTarget
from society.runs.tracking.worker import describe_failure
from store.ledger import Store
from store.records import TrainingPoint

NAMES = ("tensorboard", "mlflow", "wandb", "trackio")
ACCURACY = "multiagent/eval/sampled/consensus"
SECRET = "a-secret-of-this-test"


def start(runs: Path, experiment: Path, *overrides: str):
    """Run to the end; returns the run's folder and what the user was told."""
    config = load_config(str(experiment), overrides)
    folder = folders.locate_run(runs, "run")
    events = []
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, events.append))
    return folder, [event.text for event in events if isinstance(event, Note)]


def rows(folder, sql):
    with Store.open(folder.database, read_only=True) as store:
        return store.rows(sql)


def is_installed(name: str) -> bool:
    return not extras.find_missing(extras.PACKAGES[name])


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, scripted):
    """A run of one iteration, then of two, then started once more, logged to what is installed."""
    path = tmp_path_factory.mktemp("tracked")
    names = [name for name in NAMES if is_installed(name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path / 'mlflow.db'}")
        patch.setenv("TRACKIO_DIR", str(path / "trackio"))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_API_KEY", SECRET)
        experiment = scripted(path)
        tracking = f"tracking={names}".replace("'", '"')
        told = []
        for iterations in (1, 2, 2):
            folder, notes = start(path / "runs", experiment, tracking, f"iterations={iterations}")
            told += [note for note in notes if "tracking" in note]
        yield folder, told


@pytest.mark.skipif(not is_installed("tensorboard"), reason="tensorboardX is not installed")
def test_every_figure_is_recorded_once(tracked):
    folder, told = tracked
    assert told == []
    found = rows(
        folder,
        f"SELECT step, value FROM tracked_figures WHERE figure = '{ACCURACY}' "
        "AND tracker = 'tensorboard' ORDER BY created_at, step",
    )
    stored = rows(
        folder,
        "SELECT iteration, accuracy FROM accuracy WHERE split = 'eval' AND decoding = 'sampled' "
        "AND measure = 'consensus' ORDER BY iteration",
    )
    assert found == stored
    assert [step for step, _ in found] == [0, 1, 2]
    names = {name for (name,) in rows(folder, "SELECT DISTINCT figure FROM tracked_figures")}
    assert {
        f"{ACCURACY}-low",
        "multiagent/eval/greedy/single",
        "multiagent/eval/sampled/agreement-last",
        "multiagent/labels/coverage",
        "multiagent/labels/accuracy-high",
        "multiagent/training/critic/examples",
        "multiagent/cost/calls",
        "multiagent/cost-so-far/completion-tokens",
    } <= names


@pytest.mark.parametrize("tracker", NAMES)
def test_the_trackers_own_files_have_what_was_recorded(tracked, tracker):
    if not is_installed(tracker):
        pytest.skip(f"{', '.join(extras.PACKAGES[tracker])}: not installed")
    folder, _ = tracked
    [(run_id,)] = rows(
        folder, f"SELECT tracker_run_id FROM tracker_runs WHERE tracker = '{tracker}'"
    )
    recorded = defaultdict(list)
    for name, step, value in rows(
        folder,
        "SELECT figure, step, value FROM tracked_figures "
        f"WHERE tracker = '{tracker}' ORDER BY figure, step",
    ):
        recorded[name].append((step, pytest.approx(value)))
    curves, parameters = READERS[tracker](folder, run_id)
    # In the order in which they were logged: no step goes back, and none comes twice.
    assert dict(curves) == dict(recorded)
    assert "3" in parameters["society.agents"]


def test_no_tracker_has_a_secret(tracked):
    folder, _ = tracked
    files = [path for path in folder.path.parents[1].rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def read_tensorboard(folder, run_id):
    from tensorboardX.proto.event_pb2 import Event

    curves, texts = defaultdict(list), []
    for path in sorted(Path(run_id).iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            # A record: its length, a checksum, the event, a checksum.
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    curves[value.tag].append((event.step, value.simple_value))
                else:
                    texts += [text.decode() for text in value.tensor.string_val]
    cells = [line.strip("| ").split(" | ") for text in texts for line in text.splitlines()[2:]]
    return curves, dict(cells)


def read_mlflow(folder, run_id):
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert client.get_experiment(run.info.experiment_id).name == "society"
    assert run.data.tags["now.iterations"] == "2"
    curves = {
        name: [(m.step, m.value) for m in client.get_metric_history(run_id, name)]
        for name in run.data.metrics
    }
    return curves, run.data.params


def read_wandb(folder, run_id):
    from wandb.proto.wandb_internal_pb2 import Record

    curves, parameters, steps = defaultdict(list), {}, []
    files = sorted(folder.path.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))
    assert len(files) == 2
    for path in files:
        for record in map(Record.FromString, split_log(path.read_bytes())):
            for item in record.run.config.update:
                parameters[item.key] = item.value_json
            values = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
            if values:
                steps.append(int(values["_step"]))
                step = int(values.pop("iteration", None) or values.pop("training_step"))
                for name, value in values.items():
                    if not name.startswith("_"):
                        curves[name].append((step, float(value)))
    assert steps == sorted(set(steps))
    return curves, parameters


def split_log(data: bytes):
    """The records of LevelDB's log format, after W&B's own seven bytes: in blocks of 32 KiB, each
    piece with checksum, length and whether it begins (1 or 2), goes on (3) or ends (1 or 4)."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def read_trackio(folder, run_id):
    from trackio.sqlite_storage import SQLiteStorage

    [name] = SQLiteStorage.get_runs("society")
    assert name == run_id
    curves = defaultdict(list)
    for row in SQLiteStorage.get_logs("society", run_id):
        for name, value in row.items():
            if name.startswith("multiagent/"):
                curves[name].append((row["step"], value))
    return curves, SQLiteStorage.get_run_config("society", run_id)


READERS = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "wandb": read_wandb,
    "trackio": read_trackio,
}


@pytest.mark.skipif(not is_installed("tensorboard"), reason="tensorboardX is not installed")
def test_a_tracker_that_fails_is_told_once_and_gets_the_rest_at_the_next_start(
    tmp_path, experiment
):
    folder = folders.locate_run(tmp_path / "runs", "run")
    folder.path.mkdir(parents=True)
    in_the_way = folder.path / "tensorboard"
    in_the_way.write_text("no folder")
    overrides = ('tracking=["tensorboard"]', "iterations=1")
    _, notes = start(tmp_path / "runs", experiment, *overrides)
    [note] = [note for note in notes if note.startswith("tracking: tensorboard failed: NotADir")]
    assert "The run goes on" in note
    assert rows(folder, "SELECT count(*) FROM tracked_figures") == [(0,)]
    assert rows(folder, "SELECT finished_at IS NOT NULL FROM runs") == [(True,)]
    in_the_way.unlink()
    start(tmp_path / "runs", experiment, *overrides)
    [(run_id,)] = rows(folder, "SELECT tracker_run_id FROM tracker_runs")
    assert [step for step, _ in read_tensorboard(folder, run_id)[0][ACCURACY]] == [0, 1]


def wait_until(holds) -> None:
    while not holds():
        time.sleep(0.02)


def find_children() -> list[int]:
    """The trackers' processes of this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            command = (path / "cmdline").read_text()
        except OSError:
            continue
        if parent == os.getpid() and "society.runs.tracking.worker" in command:
            found.append(int(path.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.skipif(not is_installed("tensorboard"), reason="tensorboardX is not installed")
async def test_a_process_that_is_killed_is_replaced_and_one_that_hangs_is_left(
    tmp_path, experiment
):
    await asyncio.to_thread(start, tmp_path / "runs", experiment, "iterations=1")
    folder = folders.locate_run(tmp_path / "runs", "run")
    notes = []

    async def wait_for(part: str, iteration: int) -> None:
        session(PartFinished(iteration, "multiagent", part))
        sql = "SELECT count(*) FROM tracked_figures WHERE step = ? AND figure LIKE ?"
        like = f"multiagent/{part[:4]}%"
        await asyncio.to_thread(wait_until, lambda: store.rows(sql, [iteration, like]) != [(0,)])

    with Store.open(folder.database) as store:
        target = TrackerTarget("run", "society", str(folder.path), {"seed": "0"})
        session = TrackingSession(["tensorboard"], target, store, notes.append)
        await wait_for("evaluation", 0)
        [process] = find_children()
        os.kill(process, signal.SIGKILL)
        session(PartFinished(1, "multiagent", "labels"))
        await asyncio.to_thread(wait_until, lambda: notes)
        await wait_for("evaluation", 1)
        assert rows_of(store) == [(0,), (1,)]
        [process] = find_children()
        os.kill(process, signal.SIGSTOP)
        session(PartFinished(1, "multiagent", "training"))
        begun = time.monotonic()
        await session.close(finished=False)
        assert time.monotonic() - begun < 30
        assert find_children() == []
        assert [note.partition(". The run")[0] for note in notes] == [
            "tracking: tensorboard failed: its process ended by itself"
        ]
        [(labels,)] = store.rows(
            "SELECT count(*) FROM tracked_figures WHERE figure LIKE 'multiagent/labels/%'"
        )
        assert labels > 0


def rows_of(store):
    return store.rows(
        f"SELECT step FROM tracked_figures WHERE figure = '{ACCURACY}' ORDER BY created_at"
    )


def test_curves_of_losses_go_on_from_iteration_to_iteration(tmp_path, experiment):
    folder, _ = start(tmp_path / "runs", experiment)
    with Store.open(folder.database) as store:
        for job in store.jobs():
            points = 500 if job.iteration == 1 else 3
            store.write(*(TrainingPoint(job.job_id, n, 1 / n, 1e-4) for n in range(1, points + 1)))
        curves = defaultdict(list)
        for iteration in (1, 2):
            for figure in read_figures(store, PartFinished(iteration, "multiagent", "training")):
                if figure.axis == "training_step":
                    curves[figure.name].append(figure.step)
    assert len(curves) == 6
    steps = curves["multiagent/loss/agent-3-critic"]
    assert len(steps) == 200 + 3
    assert steps == sorted(set(steps))
    assert (steps[0], steps[199], steps[200:]) == (1, 500, [501, 502, 503])


def test_a_short_curve_is_kept_whole():
    assert thin_out([(1, 0.5), (2, 0.4)]) == [(1, 0.5), (2, 0.4)]


def test_settings_are_logged_without_secrets(experiment):
    address = "openai+https://me:hidden-word@127.0.0.1:9/v1:m"
    config = load_config(str(experiment), [f'society.models=["{address}", "a:b", "c:d"]'])
    config = config.model_copy(update={"provider": {"api_key": "sk-123456789012", "url": "x"}})
    found = list_parameters(config)
    assert found["provider.url"] == "x"
    assert "hidden-word" not in str(found)
    assert "sk-1" not in str(found)
    assert found["society.agents"] == "3"


def test_a_failure_is_told_without_secrets(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    told = describe_failure(RuntimeError(f"401 for\n{SECRET}"))
    assert told == "RuntimeError: 401 for [secret]"


def test_wandb_without_a_key_is_known_before_the_run(experiment, monkeypatch, tmp_path):
    if not is_installed("wandb"):
        pytest.skip("wandb: not installed")
    config = load_config(str(experiment), ['tracking=["wandb"]'])
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert [found.level for found in check_trackers(config)] == ["warning"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert [found.level for found in check_trackers(config)] == ["ok"]
