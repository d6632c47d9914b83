"""Models behind Tinker's wire answer, score and train as those of this machine do."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

pytest.importorskip("tinker")

from providers import registry
from providers.errors import InvalidSettings, ModelNotFound, Unsupported
from providers.types import Message, Need
from tests.providers.tinker_client import (
    EXAMPLES,
    QUESTION,
    RECIPE,
    STEPS,
    ask,
    connected,
    find_saved,
    follow,
    make_spec,
    train,
)
from tests.providers.tinker_server import serving_tinker


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving_tinker(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    provider = registry.connect("embedded:", {"device": "cpu"}, tmp_path_factory.mktemp("local"))
    yield provider
    asyncio.run(provider.close())


async def test_answers_and_scores_are_those_of_the_local_model(server, local, tmp_path):
    async with connected(server, tmp_path) as provider:
        remote, here = await asyncio.gather(
            provider.complete(ask(provider.base)), local.complete(ask(local.base))
        )
        assert (remote.text, remote.finish_reason) == (here.text, here.finish_reason)
        assert (remote.prompt_tokens, remote.completion_tokens) == (
            here.prompt_tokens,
            here.completion_tokens,
        )
        stopped = await provider.complete(ask(provider.base, stop=(here.text[4:7],)))
        assert (stopped.text, stopped.finish_reason) == (here.text[:4], "stop")
        remote = await provider.score(provider.base, QUESTION, "The answer is 5.")
        here = await local.score(local.base, QUESTION, "The answer is 5.")
        assert remote.token_ids == here.token_ids
        assert remote.logprobs == pytest.approx(here.logprobs, abs=1e-4)


async def test_equal_requests_of_two_agents_are_drawn_apart(server, tmp_path):
    async with connected(server, tmp_path) as provider:
        asked = [ask(provider.base, key, temperature=1.0) for key in ("a", "b", "a")]
        first, other, again = [await provider.complete(one) for one in asked]
        assert first.text != other.text
        assert first.text == again.text


async def test_a_training_takes_the_batches_and_rates_of_the_local_trainer(server, local, tmp_path):
    spec = make_spec(server)
    async with connected(server, tmp_path) as provider:
        state = await train(provider, spec)
    here = await train(local, replace(spec, start=local.base))
    assert (state.status, here.status) == ("succeeded", "succeeded")
    assert [point.learning_rate for point in state.points] == [
        point.learning_rate for point in here.points
    ]
    # A fresh adapter changes nothing, so the first loss is that of the same examples.
    assert state.points[0].loss == pytest.approx(here.points[0].loss, abs=1e-3)
    assert state.points[-1].loss < state.points[0].loss
    assert state.trained_tokens == here.trained_tokens
    assert (len(state.points), state.left_out) == (STEPS, 0)
    assert len(find_saved(server, state)["history"]) == STEPS


async def test_a_server_that_divides_trains_as_one_that_sums(tmp_path):
    curves = []
    for dialect, reduction in (("skyrl", "mean"), ("vendor", "sum")):
        with serving_tinker(tmp_path / dialect, dialect=dialect) as server:
            folder = tmp_path / f"{dialect}-models"
            async with connected(server, folder, loss_reduction=reduction) as provider:
                state = await train(provider, make_spec(server))
        curves.append([point.loss for point in state.points])
    assert curves[0] == pytest.approx(curves[1], abs=1e-3)


async def test_adapters_are_trained_side_by_side_and_continue_from_each_other(server, tmp_path):
    async with connected(server, tmp_path) as provider:
        specs = [make_spec(server, f"run-a{n}", seed=n) for n in range(3)]
        firsts = await asyncio.gather(*(train(provider, spec) for spec in specs))
        assert [state.status for state in firsts] == ["succeeded"] * 3
        assert server.state()["slots"]["most"] >= 3
        models = [state.model for state in firsts]
        await provider.load_adapters(models)
        answers = [await provider.complete(ask(model)) for model in models]
        assert len({answer.text for answer in answers}) > 1
        second = await train(provider, make_spec(server, "run-a0-it2", start=models[0]))
        assert second.points[0].loss < firsts[0].points[0].loss
        wrong = replace(RECIPE, lora_rank=8)
        handle = await provider.submit(
            make_spec(server, "run-a0-it3", start=models[0], hyperparameters=wrong)
        )
        with pytest.raises(InvalidSettings, match=r"finetune.lora_rank = 8.*rank 4"):
            await follow(provider, handle)
    assert server.state()["slots"]["in_use"] == []


async def test_held_out_examples_are_measured_after_each_epoch(server, local, tmp_path):
    spec = make_spec(
        server, examples=EXAMPLES[:4], validation=EXAMPLES[4:], validation_sha256="1" * 64
    )
    async with connected(server, tmp_path) as provider:
        state = await train(provider, spec)
    assert [(one.step, one.model) for one in state.checkpoints] == [(2, None), (4, "run-a1")]
    assert state.checkpoints[1].loss < state.checkpoints[0].loss


@pytest.mark.parametrize("dialect", ["skyrl", "vendor"])
async def test_a_pulled_adapter_answers_locally_as_on_the_server(tmp_path, local, dialect):
    with serving_tinker(tmp_path / "server", dialect=dialect) as server:
        folder = tmp_path / "models"
        async with connected(server, folder, download=True) as provider:
            state = await train(provider, make_spec(server))
            remote = await provider.complete(ask(state.model))
            await provider.download_model(state.model, tmp_path / "pulled")
            if dialect == "vendor":
                # Its last state goes too: the vendor bills both by their size.
                await provider.delete_model(state.model)
                await provider.delete_model(state.model)
            else:
                with pytest.raises(Unsupported, match="still has"):
                    await provider.delete_model(state.model)
        left = {path.rpartition("-")[2] for path in server.state()["saved"]}
        assert (str(STEPS) in left) == (dialect == "skyrl")
    assert state.artifact_sha256 == state.model.sha256 is not None
    here = registry.connect("embedded:", {"device": "cpu"}, folder)
    for artifact in ("run-a1", str(tmp_path / "pulled")):
        model = replace(here.base, model_id="run-a1", artifact=artifact)
        assert (await here.complete(ask(model))).text == remote.text
    assert (await here.complete(ask(here.base))).text != remote.text
    await here.close()


async def test_what_is_no_path_of_the_server_is_refused(server, tmp_path):
    async with connected(server, tmp_path) as provider:
        model = replace(provider.base, model_id="m", artifact="run-a1-critic")
        with pytest.raises(ModelNotFound, match="trained by another provider"):
            await provider.complete(ask(model))
        gone = replace(model, artifact="tinker://nobody/sampler_weights/final")
        with pytest.raises(ModelNotFound):
            await provider.complete(ask(gone))


async def test_the_preflight_finds_model_template_and_room(server, tmp_path):
    need = Need(finetune=True, ends_at=datetime.now(UTC), adapters=3)
    async with connected(server, tmp_path) as provider:
        found = await provider.preflight(need)
        assert [one.check for one in found if one.level == "ok"] == [
            "template",
            "server",
            "model",
            "adapters",
        ]
        await provider.prepare_tuning(make_spec(server).hyperparameters)
    assert server.state()["slots"]["in_use"] == []


async def test_the_template_is_that_of_the_local_model(server, local, tmp_path):
    async with connected(server, tmp_path) as provider:
        assert await provider.read_template() == await local.read_template()
        long = (Message("user", "word " * 2000),)
        with pytest.raises(ValueError, match="context is 1024"):
            await provider.complete(replace(ask(provider.base), messages=long))
