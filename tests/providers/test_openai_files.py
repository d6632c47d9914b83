"""Training files, and uploads that happen once."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from providers.errors import AuthenticationFailed, InvalidTrainingData, TimedOut
from providers.openai.files import FilePolling, Files, write_training_file
from providers.types import Example, Message
from tests.providers.job_client import caller, client, files
from tests.providers.job_server import Server, serving

CRITIC = Example(
    (
        Message("system", "Rechne."),
        Message("user", "2²?"),
        Message("assistant", "5"),
        Message("user", "Andere sagen: 4"),
        Message("assistant", "4\n"),
    ),
    (4,),
)


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def server(process: Server) -> Server:
    process.reset()
    return process


@pytest.fixture
def local(tmp_path):
    return write_training_file([CRITIC] * 3, tmp_path / "data.jsonl")


async def test_a_server_that_tells_no_files_state_is_left_to_judge_at_the_job(server, local):
    server.tell(file_status="uploaded", refuse={"GET /files/.*": 404})
    async with files(server) as mine:
        assert await mine.ensure_uploaded(local, "data.jsonl", "fine-tune")
    assert len(uploads(server)) == 1


def uploads(server):
    return server.log("POST", "/files")


def test_a_line_holds_the_conversation_as_it_was_and_a_weight_per_assistant_turn(tmp_path):
    written = write_training_file([CRITIC], tmp_path / "data.jsonl")
    content = written.path.read_bytes()
    assert (written.bytes, written.lines) == (len(content), 1)
    assert json.loads(content) == {
        "messages": [
            {"role": "system", "content": "Rechne."},
            {"role": "user", "content": "2²?"},
            {"role": "assistant", "content": "5", "weight": 0},
            {"role": "user", "content": "Andere sagen: 4"},
            {"role": "assistant", "content": "4\n", "weight": 1},
        ]
    }
    again = write_training_file(iter([CRITIC]), tmp_path / "again.jsonl")
    assert again.path.read_bytes() == content


@pytest.mark.parametrize("loss_on", [(), (0,), (2, 3), (7,)])
def test_only_assistant_turns_can_be_trained(tmp_path, loss_on):
    with pytest.raises(InvalidTrainingData, match="training example 1 puts the loss on"):
        write_training_file([Example(CRITIC.messages, loss_on)], tmp_path / "data.jsonl")


def test_a_dataset_over_the_limit_is_refused_while_it_is_written(tmp_path):
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield CRITIC

    with pytest.raises(InvalidTrainingData, match=r"10,000 bytes.*max_examples"):
        write_training_file(endless(), tmp_path / "data.jsonl", max_bytes=10_000)
    assert drawn < 100


async def test_a_file_is_uploaded_once_however_often_it_is_asked_for(server, local):
    async with files(server) as mine:
        first = await mine.ensure_uploaded(local, "a.jsonl", "fine-tune")
        assert await mine.ensure_uploaded(local, "a.jsonl", "fine-tune") == first
    async with files(server) as restarted:
        assert await restarted.ensure_uploaded(local, "a.jsonl", "fine-tune") == first
    assert len(uploads(server)) == 1
    assert server.state()["contents"][first].encode() == local.path.read_bytes()


async def test_a_file_on_a_later_page_of_the_list_is_found(server, local, tmp_path):
    server.tell(page=2)
    async with files(server) as mine:
        names = [f"{n}.jsonl" for n in range(7)]
        ids = [await mine.ensure_uploaded(local, name, "fine-tune") for name in names]
        assert [await mine.ensure_uploaded(local, name, "fine-tune") for name in names] == ids
        other = write_training_file([CRITIC], tmp_path / "other.jsonl")
        assert await mine.ensure_uploaded(other, "3.jsonl", "fine-tune") not in ids
    assert len(uploads(server)) == 8


@pytest.mark.parametrize("failure", ["drop", 500, 503])
async def test_an_upload_whose_answer_was_lost_is_not_repeated(server, local, failure):
    server.tell(uploaded=[failure])
    async with files(server) as mine:
        file_id = await mine.ensure_uploaded(local, "a.jsonl", "fine-tune")
    assert len(uploads(server)) == 1
    assert list(server.state()["files"]) == [file_id]


@pytest.mark.parametrize("failure", ["drop", 500, 429])
async def test_an_upload_that_did_not_arrive_is_sent_again(server, local, failure):
    server.tell(upload=[failure, failure])
    async with files(server) as mine:
        await mine.ensure_uploaded(local, "a.jsonl", "fine-tune")
    assert len(server.state()["files"]) == 1


async def test_a_refused_upload_is_not_sent_again(server, local):
    server.tell(upload=[401] * 5)
    async with files(server) as mine:
        with pytest.raises(AuthenticationFailed):
            await mine.ensure_uploaded(local, "a.jsonl", "fine-tune")
    assert len(uploads(server)) == 1


async def test_the_file_is_used_when_the_server_has_prepared_it(server, local):
    server.tell(file_status="pending")
    async with files(server) as mine:
        file_id = await mine.ensure_uploaded(local, "a.jsonl", "fine-tune")
    assert server.state()["files"][file_id]["status"] == "processed"
    assert len(server.log("GET", f"/files/{file_id}")) == 1


async def test_a_file_that_is_never_ready_is_given_up_and_found_again(server, local):
    server.tell(file_status="pending")
    async with client(server) as opened:
        impatient = Files(opened, caller(), FilePolling(0.01, prepared_s=0.0))
        with pytest.raises(TimedOut, match="it will be found"):
            await impatient.ensure_uploaded(local, "a.jsonl", "fine-tune")
    async with files(server) as patient:
        await patient.ensure_uploaded(local, "a.jsonl", "fine-tune")
    assert len(uploads(server)) == 1


async def test_a_file_the_server_refuses_is_bad_data(server, local):
    server.tell(file_status="error")
    async with files(server) as mine:
        with pytest.raises(InvalidTrainingData, match="file-000001: error"):
            await mine.ensure_uploaded(local, "a.jsonl", "fine-tune")
