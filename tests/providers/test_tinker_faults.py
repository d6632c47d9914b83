"""What goes wrong at a server of Tinker's wire: a recovery, or a message with its remedy."""

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

pytest.importorskip("tinker")

from providers.errors import (
    AuthenticationFailed,
    InvalidSettings,
    ProviderError,
    Unreachable,
    Unsupported,
)
from providers.types import Need
from tests.providers.tinker_client import (
    STEPS,
    ask,
    connected,
    find_saved,
    follow,
    make_spec,
    train,
)
from tests.providers.tinker_server import serving_tinker

FIELD_REQUIRED = {"status": 422, "body": {"detail": "Field required"}}


@pytest.fixture
def server(tmp_path):
    with serving_tinker(tmp_path / "server") as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the server has saved for the job if nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")

    async def make(server):
        async with connected(server, folder / "models") as provider:
            return find_saved(server, await train(provider, make_spec(server)))

    with serving_tinker(folder / "server") as server:
        return asyncio.run(make(server))


def assert_same(found, undisturbed):
    """Every optimizer step is in the adapter once, and it has the same bits."""
    assert len(found["history"]) == STEPS
    assert found["history"] == undisturbed["history"]
    assert found["sha256"] == undisturbed["sha256"]


@pytest.mark.parametrize(
    ("path", "nth", "done"),
    [
        ("optim_step", 4, False),
        ("optim_step", 4, True),
        ("forward_backward", 3, True),
        ("save_weights", 1, True),
        ("save_weights_for_sampler", 1, True),
        ("create_model", 1, True),
    ],
)
async def test_a_dropped_connection_leaves_no_step_out_and_none_twice(
    server, tmp_path, undisturbed, path, nth, done
):
    server.tell(drop=[{"path": path, "nth": nth, "done": done}])
    async with connected(server, tmp_path / "models") as provider:
        state = await train(provider, make_spec(server))
    assert state.status == "succeeded"
    assert [point.step for point in state.points] == list(range(1, STEPS + 1))
    assert_same(find_saved(server, state), undisturbed)


async def test_a_server_of_ones_own_gets_a_step_after_its_pass_is_done(server, tmp_path):
    # SkyRL's engine may take a step that waits beside its pass before the pass.
    server.tell(pass_s=0.1)
    async with connected(server, tmp_path / "models") as provider:
        state = await train(provider, make_spec(server))
    assert state.status == "succeeded"
    assert server.state()["early_steps"] == 0


async def test_a_training_that_broke_off_continues_in_the_next_process(
    server, tmp_path, undisturbed
):
    spec, models = make_spec(server), tmp_path / "models"
    server.tell(drop=[{"path": "optim_step", "nth": 4, "done": True}])
    async with connected(server, models, max_attempts=1) as provider:
        handle = await provider.submit(spec)
        with pytest.raises(ProviderError, match="lost"):
            await follow(provider, handle)
    async with connected(server, models) as provider:
        assert await provider.find(replace(spec, seed=9)) is None
        assert await provider.find(spec) == handle
        state = await follow(provider, handle)
        assert_same(find_saved(server, state), undisturbed)
    # Done: no other process trains it again.
    steps = len(server.state()["steps"])
    async with connected(server, models) as provider:
        assert await provider.find(spec) == handle
        assert (await provider.poll(handle)).model == state.model
        assert (await provider.submit(spec)) == handle
    assert len(server.state()["steps"]) == steps


async def test_a_run_that_is_stopped_saves_its_state_first(server, tmp_path, undisturbed):
    spec, models = make_spec(server), tmp_path / "models"
    async with connected(server, models, save_every=100) as provider:
        handle = await provider.submit(spec)
        await follow(provider, handle, points=1)
    steps = len(server.state()["steps"])
    assert 0 < steps < STEPS
    async with connected(server, models, save_every=100) as provider:
        await provider.find(spec)
        assert_same(find_saved(server, await follow(provider, handle)), undisturbed)
    assert len(server.state()["steps"]) == STEPS


async def test_a_cancelled_job_ends_and_is_not_found_again(server, tmp_path):
    server.tell(step_s=0.2)
    spec = make_spec(server)
    async with connected(server, tmp_path / "models") as provider:
        handle = await provider.submit(spec)
        assert not (await provider.poll(handle)).done
        await provider.cancel(handle)
        assert (await follow(provider, handle)).status == "cancelled"
        await provider.cancel(handle)
        assert await provider.find(spec) is None


@pytest.mark.parametrize("fault", ["restart", "expire", "evict"])
async def test_adapters_that_the_server_has_lost_are_loaded_again(server, tmp_path, fault):
    async with connected(server, tmp_path / "models", give_up_after_s=5.0) as provider:
        state = await train(provider, make_spec(server))
        before = await provider.complete(ask(state.model))
        if fault == "evict":
            server.evict(state.model.artifact.split("/")[2])
        else:
            getattr(server, fault)()
        answers = await asyncio.gather(
            *(provider.complete(ask(state.model, str(n))) for n in range(4))
        )
        assert {answer.text for answer in answers} == {before.text}
        # Once, for all that had met it.
        assert len(server.state()["slots"]["in_use"]) == 1
        again = await train(provider, make_spec(server, "run-a1-it2", start=state.model))
        assert again.status == "succeeded"


async def test_the_server_restarts_in_the_middle_of_a_training(server, tmp_path, undisturbed):
    server.tell(step_s=0.05)
    async with connected(server, tmp_path / "models") as provider:
        handle = await provider.submit(make_spec(server))
        await follow(provider, handle, points=3)
        server.restart()
        assert_same(find_saved(server, await follow(provider, handle)), undisturbed)


async def test_full_slots_are_told_with_their_number_before_a_run(server, tmp_path):
    server.tell(slots=2)
    need = Need(finetune=True, ends_at=datetime.now(UTC), adapters=6)
    async with connected(server, tmp_path / "models") as provider:
        [error] = [one for one in await provider.preflight(need) if one.level == "error"]
    assert "slots for 2 more adapters, and this society has 6" in error.text
    assert "max_lora_adapters = 7" in error.remedy
    assert server.state()["slots"]["in_use"] == []


async def test_adapters_that_only_answer_make_room_for_trainings(server, tmp_path):
    server.tell(slots=2)
    async with connected(server, tmp_path / "models") as provider:
        specs = [make_spec(server, f"run-a{n}", seed=n) for n in range(2)]
        firsts = await asyncio.gather(*(train(provider, spec) for spec in specs))
        later = [
            make_spec(server, f"{spec.name}-it2", start=state.model)
            for spec, state in zip(specs, firsts, strict=True)
        ]
        states = await asyncio.gather(*(train(provider, spec) for spec in later))
        assert [state.status for state in states] == ["succeeded"] * 2
        assert server.state()["slots"]["most"] == 2


async def test_a_rank_that_the_server_refuses_is_told_before_anything_is_spent(server, tmp_path):
    recipe = replace(make_spec(server).hyperparameters, lora_rank=64)
    async with connected(server, tmp_path / "models") as provider:
        with pytest.raises(InvalidSettings, match=r"finetune.lora_rank.*max_lora_rank"):
            await provider.prepare_tuning(recipe)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"client/config": "hang"}, "another generation.*tinker==0.24.1"),
        (
            {"create_session": {"status": 422, "body": {"detail": "Field required"}}},
            "tinker==0.24.1",
        ),
    ],
)
async def test_a_server_of_another_generation_says_which_sdk_it_wants(
    server, tmp_path, answer, words
):
    server.tell(answer=answer)
    need = Need(finetune=True, ends_at=datetime.now(UTC))
    async with connected(server, tmp_path / "models", timeout_s=1.0) as provider:
        [error] = [one for one in await provider.preflight(need) if one.level == "error"]
        assert re.search(words, error.text), error.text
        with pytest.raises(Unsupported):
            await provider.complete(ask(provider.base))


async def test_a_server_that_never_makes_an_adapter_may_want_another_sdk(server, tmp_path):
    server.tell(answer={"retrieve_future": "hang"})
    need = Need(finetune=True, ends_at=datetime.now(UTC), adapters=1)
    async with connected(server, tmp_path / "models", timeout_s=2.0) as provider:
        [error] = [one for one in await provider.preflight(need) if one.level == "error"]
    assert "has not finished a new adapter within 2 s" in error.text
    assert "tinker==0.24.1" in error.remedy


async def test_a_server_that_is_gone_is_told_and_the_job_stays(server, tmp_path):
    spec = make_spec(server)
    settings = {"give_up_after_s": 1.0, "max_attempts": 2}
    async with connected(server, tmp_path / "models", **settings) as provider:
        handle = await provider.submit(spec)
        await follow(provider, handle, points=1)
        server.tell(answer={".*": {"status": 503, "body": {"detail": "down"}}})
        with pytest.raises(ProviderError):
            await follow(provider, handle)
    server.tell(answer={})
    async with connected(server, tmp_path / "models") as provider:
        assert await provider.find(spec) == handle
        assert (await follow(provider, handle)).status == "succeeded"


async def test_nobody_at_the_address(tmp_path):
    class Nobody:
        url = "http://127.0.0.1:9"

    async with connected(Nobody, tmp_path / "models", give_up_after_s=1.0) as provider:
        with pytest.raises(Unreachable, match="start it, or correct its URL"):
            await provider.complete(ask(provider.base))


async def test_a_missing_key_and_one_of_another_kind_are_told(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MINE", "sk-something-else")
    async with connected(server, tmp_path / "models", api_key_env="MINE") as provider:
        with pytest.raises(AuthenticationFailed, match=r'begins with "tml-"') as caught:
            await provider.complete(ask(provider.base))
    assert "sk-something-else" not in str(caught.value)
    monkeypatch.delenv("MINE")
    async with connected(server, tmp_path / "models", api_key_env="MINE") as provider:
        with pytest.raises(AuthenticationFailed, match="MINE is not set"):
            await provider.complete(ask(provider.base))


async def test_a_model_that_is_not_offered_is_told_with_those_that_are(server, tmp_path):
    server.tell(base="another")
    need = Need(finetune=True, ends_at=datetime.now(UTC))
    async with connected(server, tmp_path / "models") as provider:
        [error] = [one for one in await provider.preflight(need) if one.level == "error"]
    assert "does not offer 'embedded'" in error.text
    assert "another" in error.remedy
