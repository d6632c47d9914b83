"""Announced ends of fine-tuning and of models, on days of the test's choosing."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from providers import registry
from providers.openai import closings
from providers.openai.client import Connection
from providers.openai.preflight import preflight_model
from providers.openai.settings import ModelAddress, OpenAISettings, parse_address
from providers.types import Need
from tests.providers.chat_server import ChatServer, Reply, fails

OPENAI = parse_address("gpt-4.1-mini-2025-04-14")
AZURE = parse_address("+https://me.openai.azure.com/openai/v1:gpt-4.1-mini-2025-04-14")
JOBS = [{"id": "ftjob-1", "object": "fine_tuning.job", "status": "succeeded"}]


def need(day: date, hours: float = 8, *, finetune: bool = True) -> Need:
    now = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return Need(finetune, now + timedelta(hours=hours), now=now)


def jobs(address: ModelAddress, wanted: Need) -> list[tuple[str, str]]:
    return [(f.level, f.text) for f in closings.check_jobs(address, wanted) if not f.check]


def test_jobs_end_on_the_day_that_the_vendor_names():
    [before] = jobs(OPENAI, need(date(2027, 1, 4)))
    assert before[0] == "warning"
    assert "from 2027-01-06 on (2 days left)" in before[1]
    [after] = closings.check_jobs(OPENAI, need(date(2027, 1, 6)))
    assert after.level == "error"
    assert "no new fine-tuning jobs since 2027-01-06" in after.text
    assert "https://developers.openai.com/api/docs/deprecations, read on 2026-" in after.text


def test_what_else_can_train_is_what_this_version_has():
    [found] = closings.check_jobs(OPENAI, need(date(2027, 1, 6)))
    assert "local:PATH_OR_HUB_NAME" in found.remedy
    for scheme in ("gemini", "bedrock", "tinker"):
        assert (f"{scheme}:MODEL" in found.remedy) == (scheme in registry.schemes())


def test_a_run_that_may_outlast_the_date_is_warned_only():
    [found] = closings.check_jobs(OPENAI, need(date(2027, 1, 5), hours=20))
    assert (found.level, "until 2027-01-06" in found.text) == ("warning", True)
    assert found.remedy.startswith("run fewer iterations")


def test_azure_says_no_earlier_than_so_that_nothing_is_refused():
    told = jobs(AZURE, need(date(2026, 12, 1)))
    assert [level for level, _ in told] == ["warning", "warning"]
    assert "existing customers only" in told[0][1]
    assert "may take no new fine-tuning jobs from 2027-04-14 on (134 days left)" in told[1][1]
    late = jobs(AZURE, need(date(2027, 4, 14)))
    assert (late[-1][0], "a job may be refused" in late[-1][1]) == ("warning", True)
    ending = [f.text for f in closings.check_jobs(AZURE, need(date(2027, 11, 1))) if f.check]
    assert ending[0].startswith("what is tuned from gpt-4.1-mini-2025-04-14: no answers since")


@pytest.mark.parametrize(
    ("model", "day", "level"),
    [
        ("gpt-4o-mini", date(2027, 1, 13), "warning"),
        ("gpt-4o-mini", date(2027, 1, 14), "error"),
        ("ft:gpt-4.1-2025-04-14:org::id", date(2027, 1, 14), "error"),
        ("gpt-4.1-nano", date(2026, 11, 30), "error"),
        ("gpt-6-luna", date(2027, 1, 14), None),
    ],
)
def test_answers_end_by_model(model, day, level):
    found = list(closings.check_base(parse_address(model), need(day, finetune=False)))
    assert [finding.level for finding in found] == ([] if level is None else [level])
    assert all(finding.check == "ending" for finding in found)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "https://api.tokenfactory.nebius.com/v1"]
)
def test_other_servers_with_this_api_have_no_such_dates(url):
    address = parse_address(f"+{url}:gpt-4.1-mini")
    late = need(date(2030, 1, 1))
    assert [*closings.check_jobs(address, late), *closings.check_base(address, late)] == []


def script(card, listed=JOBS):
    def answer(asked):
        if asked.path == "/v1/models":
            return Reply({"object": "list", "data": [{"id": OPENAI.model, **card}]})
        if asked.path.startswith("/v1/fine_tuning/jobs"):
            return Reply({"object": "list", "data": listed, "has_more": False})
        return fails(404, "no such thing")

    return answer


async def preflight(answer, wanted):
    """The findings about OpenAI's own model, which the stand-in at another address describes."""
    settings = OpenAISettings(api_key_env="")
    async with ChatServer(answer) as server:
        connection = Connection(ModelAddress(server.url, OPENAI.model), settings)
        found = await preflight_model(lambda: connection, OPENAI, settings, wanted)
        await connection.close()
    return [f for f in found if f.level != "ok"], [asked.path for asked in server.asked]


async def test_from_the_last_day_on_the_preflight_refuses_jobs_and_asks_for_none():
    found, asked = await preflight(script({}), need(date(2027, 1, 6)))
    assert [f.check for f in found if f.level == "error"] == ["fine-tuning"]
    assert not any("fine_tuning" in path for path in asked)


async def test_an_arm_without_training_runs_on_as_long_as_the_model_answers():
    found, _ = await preflight(script({}), need(date(2027, 1, 6), finetune=False))
    assert [(f.level, f.check) for f in found if f.check != "sampling"] == [("warning", "ending")]


async def test_an_end_that_the_server_announces_counts_in_place_of_ours():
    found, _ = await preflight(
        script({"shutdown_date": "2027-03-01"}), need(date(2027, 1, 20), finetune=False)
    )
    [ending] = [f for f in found if f.check == "ending"]
    assert (ending.level, "2027-03-01" in ending.text) == ("warning", True)


async def test_an_organization_without_jobs_is_refused_before_the_first_debate():
    found, _ = await preflight(script({}, []), need(date(2026, 12, 1)))
    [refused] = [f for f in found if f.level == "error"]
    assert "refuses those that had none before 2026-05-07" in refused.text
    found, _ = await preflight(script({}), need(date(2026, 12, 1)))
    assert any("2026-07-02 OpenAI refuses organizations" in f.text for f in found)
