"""What is on disk of a training through Tinker's wire: its journal, and the slots it holds."""

import json
import subprocess
import sys

import pytest

from providers.errors import ModelNotFound, StorageFailed
from providers.hyperparameters import Hyperparameters
from providers.tinker.journal import open_journal, read_journal
from providers.tinker.paths import name_state, read_step, sampler_path, split_path, state_path
from providers.tinker.slots import SlotRecord, take_abandoned
from providers.types import FinetuneSpec, ModelRef, TrainingCheckpoint, TrainingStep

SPEC = FinetuneSpec("run-a1", ModelRef("b", "b"), (), "0" * 64, Hyperparameters())


def fill(journal, steps):
    journal.begin("model_1")
    for step in range(1, steps + 1):
        journal.intend(step)
        journal.add_point(TrainingStep(step, 1.0 / step, 0.1), 10)
        if step % 2 == 0:
            journal.add_state(step, f"tinker://model_1/weights/s-{step}")


def test_a_journal_is_read_back_as_it_was_written(tmp_path):
    journal = open_journal(tmp_path / "run-a1", "d1")
    fill(journal, 4)
    journal.add_measured(TrainingCheckpoint(4, "run-a1", 0.5))
    journal.finish("tinker://model_1/sampler_weights/s-4", "abc", 2)
    assert read_journal(tmp_path / "run-a1", "d1") == journal
    assert journal.trained_tokens == 40


def test_a_step_that_was_only_intended_is_no_point(tmp_path):
    journal = open_journal(tmp_path / "run-a1", "d1")
    fill(journal, 3)
    journal.intend(4)
    found = read_journal(tmp_path / "run-a1", "d1")
    assert (found.intended, len(found.points), max(found.states)) == (4, 3, 2)
    found.go_back(2)
    again = read_journal(tmp_path / "run-a1", "d1")
    assert (again.intended, [p.step for p in again.points], again.trained_tokens) == (2, [1, 2], 20)


def test_a_line_that_was_cut_off_is_forgotten_and_the_next_is_whole(tmp_path):
    journal = open_journal(tmp_path / "run-a1", "d1")
    fill(journal, 2)
    whole = journal.path.read_text()
    for cut in range(1, 30):
        journal.path.write_text(whole + '{"point": [3, 0.3, 0.1], "tokens": 10}'[:cut])
        found = open_journal(tmp_path / "run-a1", "d1")
        assert len(found.points) == 2
        found.intend(3)
        assert read_journal(tmp_path / "run-a1", "d1").intended == 3


def test_the_journal_of_other_settings_is_replaced(tmp_path):
    fill(open_journal(tmp_path / "run-a1", "d1"), 2)
    assert read_journal(tmp_path / "run-a1", "d2") is None
    journal = open_journal(tmp_path / "run-a1", "d2")
    assert journal.points == []
    journal.begin("model_2")
    assert read_journal(tmp_path / "run-a1", "d1") is None


def test_a_journal_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "models").write_text("a file")
    journal = open_journal(tmp_path / "models" / "run-a1", "d1")
    with pytest.raises(StorageFailed, match=r"models.*free some space"):
        journal.begin("model_1")


def test_a_journal_that_is_submitted_again_is_not_cancelled_any_more(tmp_path):
    journal = open_journal(tmp_path / "run-a1", "d1")
    journal.submit()
    journal.cancel()
    assert read_journal(tmp_path / "run-a1", "d1").cancelled
    open_journal(tmp_path / "run-a1", "d1").submit()
    assert not read_journal(tmp_path / "run-a1", "d1").cancelled


def test_names_have_digest_and_step():
    assert read_step(SPEC, name_state(SPEC, 7)) == 7
    assert read_step(SPEC, f"weights/{name_state(SPEC, 7)}") == 7
    assert read_step(SPEC, "society-0123456789abcdef-7") is None
    assert read_step(SPEC, "mine") is None


def test_a_path_answers_and_its_twin_is_trained_on():
    for path in ("tinker://r/n", "tinker://r/weights/n", "tinker://r/sampler_weights/n"):
        assert split_path(path) == ("r", "n")
        assert sampler_path(path) == "tinker://r/sampler_weights/n"
        assert state_path(path) == "tinker://r/weights/n"
    with pytest.raises(ModelNotFound, match="'run-a1-critic' is no path"):
        split_path("run-a1-critic")


def test_the_slots_of_a_living_process_are_left_to_it(tmp_path):
    record = SlotRecord(tmp_path)
    record.add("model_1")
    assert take_abandoned(tmp_path) == []
    record.remove("model_1")
    record.close()
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from providers.tinker.slots import SlotRecord
record = SlotRecord(Path(sys.argv[1]))
record.add("model_1")
record.add("model_2")
record.remove("model_1")
record.add("model_3")
print("held", flush=True)
time.sleep(60)
"""


def test_the_slots_of_a_killed_process_are_taken_once(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        assert take_abandoned(tmp_path) == []
        child.kill()
        child.wait()
    assert take_abandoned(tmp_path) == ["model_2", "model_3"]
    assert take_abandoned(tmp_path) == []


def test_a_record_is_json_at_every_moment(tmp_path):
    record = SlotRecord(tmp_path)
    for number in range(20):
        record.add(f"model_{number}")
        [path] = tmp_path.glob(".slots-*.json")
        assert len(json.loads(path.read_text())) == number + 1
    record.close()
