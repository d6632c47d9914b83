"""The provider as its callers see it: memory, errors, cancellation, scores, jobs, shutdown."""

import asyncio
import threading
import time

import pytest

from providers.base import Provider
from providers.errors import ContextOverflow, InvalidSettings, ModelNotFound, OutOfMemory, RunError
from providers.local.factory import connect
from providers.local.models import LocalModels
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    Message,
    ModelRef,
    Request,
)


@pytest.fixture
async def provider(llama, adapters):
    provider = connect(str(llama), {"threads": 1}, adapters)
    yield provider
    await provider.close()


@pytest.fixture
async def precise(llama, adapters):
    """In fp32 on every machine, to be compared with transformers."""
    provider = connect(str(llama), {"threads": 1, "dtype": "float32"}, adapters)
    yield provider
    await provider.close()


def spec_for(provider, name: str, epochs: int = 1, start: ModelRef | None = None) -> FinetuneSpec:
    example = Example((Message("user", "1+1"), Message("assistant", "2")), (1,))
    how = Hyperparameters(
        epochs=epochs, batch_size=4, learning_rate=1e-2, lora_rank=4, lora_alpha=8
    )
    return FinetuneSpec(name, start or provider.base, [example] * 8, "0" * 64, how)


async def finish(provider, handle):
    for _ in range(10_000):
        state = await provider.poll(handle)
        if state.done:
            return state
        await asyncio.sleep(0.02)
    raise AssertionError(f"{handle} never ended")


async def test_it_is_a_provider(provider):
    assert isinstance(provider, Provider)
    assert provider.capabilities.finetune
    assert provider.capabilities.score


async def test_memory_pressure_splits_the_batch(llama, adapters, ask):
    from providers.local.engine import Engine

    settings = LocalSettings(threads=1)
    models = LocalModels(locate_model(str(llama), settings), settings, adapters)
    requests = [ask(f"{i}+{i}", key=f"{i}", temperature=1.0) for i in range(60)]

    def answer_all() -> list[str]:
        engine = Engine(models, settings)
        futures = [engine.answer(request) for request in requests]
        texts = [future.result(60).text for future in futures]
        engine.close()
        return texts

    expected = answer_all()
    seen = []

    def small_device(module, args, kwargs):
        rows = kwargs["input_ids"].shape[0]
        seen.append(rows)
        if rows > 16:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 PB")

    hook = models.base.model.register_forward_pre_hook(small_device, with_kwargs=True)
    assert answer_all() == expected
    assert max(seen) > 16
    assert seen[-1] <= 16
    hook.remove()


async def test_one_request_that_does_not_fit_fails_alone(llama, adapters, ask):
    from providers.local.engine import Engine

    settings = LocalSettings(threads=1)
    models = LocalModels(locate_model(str(llama), settings), settings, adapters)

    def tiny_device(module, args, kwargs):
        if kwargs["input_ids"].shape[1] > 50:
            raise MemoryError("full")

    models.base.model.base_model.register_forward_pre_hook(tiny_device, with_kwargs=True)
    engine = Engine(models, settings)
    small = [engine.answer(ask("1+1", key=f"{i}")) for i in range(5)]
    large = engine.answer(ask("z" * 100, key="large"))
    assert len({future.result(60).text for future in small}) == 1
    with pytest.raises(OutOfMemory, match="'large'"):
        large.result(60)
    engine.close()


async def test_a_small_budget_still_answers_everything(llama, adapters, ask):
    requests = [ask("x" * (1 + i), key=f"{i}") for i in range(40)]
    provider = connect(str(llama), {"threads": 1, "max_batch_tokens": 200}, adapters)
    done = await asyncio.gather(*(provider.complete(request) for request in requests))
    await provider.close()
    assert all(completion.completion_tokens for completion in done)


async def test_a_prompt_beyond_the_context_fails_and_an_answer_is_cut(provider, ask):
    with pytest.raises(ContextOverflow, match="512"):
        await provider.complete(ask("x" * 600))
    done = await provider.complete(ask("x" * 500, max_tokens=100))
    assert done.prompt_tokens + done.completion_tokens <= 512


async def test_a_missing_adapter_fails_its_request_only(provider, ask):
    bad, good = await asyncio.gather(
        provider.complete(ask("1+1", "gone")), provider.complete(ask("1+1")), return_exceptions=True
    )
    assert isinstance(bad, ModelNotFound)
    assert good.text


async def test_scores_equal_a_direct_computation(llama, adapters, precise):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = ["42", "The answer is 41, so \\boxed{41}.", "x" * 70]
    messages = (Message("user", "What is 6*7?"),)
    scores = await asyncio.gather(
        *(
            precise.score(ModelRef("m", "local:x", name), messages, text)
            for name in (None, "a1")
            for text in texts
        )
    )
    tokenizer = AutoTokenizer.from_pretrained(llama)
    models = [AutoModelForCausalLM.from_pretrained(llama)]
    models.append(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), adapters / "a1")
    )
    prompt = tokenizer("<|user|>What is 6*7?<|end|><|assistant|>")["input_ids"]
    for model, found in zip(models, (scores[:3], scores[3:]), strict=True):
        for text, score in zip(texts, found, strict=True):
            answer = tokenizer(text)["input_ids"]
            expected = logits_of(model, prompt, answer)[range(len(answer)), answer]
            assert score.token_ids == tuple(answer)
            assert score.logprobs == pytest.approx(expected.tolist(), abs=1e-5)


async def test_a_cancelled_request_leaves_and_the_others_stay(provider, ask):
    slow = asyncio.create_task(provider.complete(ask("slow", temperature=1.0, max_tokens=480)))
    await asyncio.sleep(0.05)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert (await provider.complete(ask("1+1"))).text


async def test_close_cancels_what_waits_and_ends_the_thread(llama, adapters, ask):
    before = set(threading.enumerate())
    provider = connect(str(llama), {"threads": 1}, adapters)
    waiting = [
        asyncio.create_task(provider.complete(ask("q", key=f"{i}", max_tokens=480)))
        for i in range(20)
    ]
    await asyncio.sleep(0.02)
    await provider.close()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, RunError) or result.text for result in done)
    assert any(isinstance(result, RunError) for result in done)
    left = set(threading.enumerate()) - before
    assert not any(thread.name == "local-model" for thread in left)
    with pytest.raises(RunError, match="closed"):
        await provider.complete(ask("q"))


async def test_nothing_is_computed_while_nothing_is_asked(provider, ask):
    await provider.complete(ask("1+1"))
    before = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - before < 0.1


async def test_a_job_trains_and_its_model_answers(llama, tmp_path, ask):
    provider = connect(str(llama), {"threads": 1}, tmp_path)
    spec = spec_for(provider, "run-a1-generator-it1", epochs=20)
    before = await provider.complete(ask("1+1"))
    assert await provider.find(spec) is None
    handle = await provider.submit(spec)
    assert await provider.find(spec) == handle
    state = await finish(provider, handle)
    assert state.status == "succeeded", state.error
    assert state.model.artifact == spec.name
    assert len(state.points) == 40
    assert state.points[-1].loss < state.points[0].loss
    await provider.load_adapters([state.model])
    request = Request(state.model, (Message("user", "1+1"),), ask("x").sampling, "k")
    assert (await provider.complete(request)).text == "2"
    assert await provider.complete(ask("1+1")) != before  # latency differs
    assert (await provider.complete(ask("1+1"))).text == before.text
    await provider.close()

    again = connect(str(llama), {"threads": 1}, tmp_path)
    assert await again.find(spec) == handle
    assert (await again.poll(handle)).artifact_sha256 == state.artifact_sha256
    going_on = spec_for(again, "run-a1-generator-it2", start=state.model)
    assert (await finish(again, await again.submit(going_on))).points[0].loss < state.points[0].loss
    await again.close()


async def test_a_fresh_job_depends_on_its_seed_alone(llama, tmp_path):
    hashes = []
    for place in ("one", "two"):
        provider = connect(str(llama), {"threads": 1}, tmp_path / place)
        state = await finish(provider, await provider.submit(spec_for(provider, "job")))
        hashes.append(state.artifact_sha256)
        await provider.close()
    assert hashes[0] == hashes[1]


async def test_a_full_fine_tune_is_a_model_of_its_own(llama, tmp_path, ask):
    from dataclasses import replace

    provider = connect(str(llama), {"threads": 1}, tmp_path)
    spec = spec_for(provider, "full", epochs=20)
    spec = replace(spec, hyperparameters=replace(spec.hyperparameters, method="full"))
    before = await provider.complete(ask("1+1"))
    state = await finish(provider, await provider.submit(spec))
    assert state.status == "succeeded", state.error
    await provider.load_adapters([state.model])
    base, tuned = await asyncio.gather(
        provider.complete(ask("1+1")), provider.complete(ask("1+1", "full"))
    )
    assert (base.text, tuned.text) == (before.text, "2")
    await provider.close()


async def test_cancelled_and_failed_jobs_say_so(provider):
    running = await provider.submit(spec_for(provider, "stopped", epochs=5000))
    queued = await provider.submit(spec_for(provider, "queued"))
    await provider.cancel(queued)
    await asyncio.sleep(0.2)
    await provider.cancel(running)
    assert (await finish(provider, running)).status == "cancelled"
    assert (await finish(provider, queued)).status == "cancelled"
    lost = ModelRef("lost", provider.base.address, "lost")
    failed = await finish(provider, await provider.submit(spec_for(provider, "bad", start=lost)))
    assert failed.status == "failed"
    assert "lost" in (failed.error or "")


async def test_after_a_job_requests_are_answered_as_before(provider, ask):
    before = await provider.complete(ask("1+1", "a0"))
    handle = await provider.submit(spec_for(provider, "between", epochs=3))
    during, _ = await asyncio.gather(provider.complete(ask("1+1", "a0")), finish(provider, handle))
    assert during.text == before.text


async def test_serving_drops_other_adapters(provider, adapters, ask):
    said = [(await provider.complete(ask("Why?", name))).text for name in ("a0", "a1")]
    await provider.load_adapters([ModelRef("a1", provider.base.address, "a1")])
    assert [(await provider.complete(ask("Why?", name))).text for name in ("a0", "a1")] == said
    with pytest.raises(ModelNotFound):
        await provider.load_adapters([ModelRef("none", provider.base.address, "none")])


async def test_a_device_that_is_not_there(llama, tmp_path, ask):
    provider = connect(str(llama), {"device": "cuda:7"}, tmp_path)
    with pytest.raises(InvalidSettings, match="cuda:7"):
        await provider.complete(ask("1+1"))
    await provider.close()


def logits_of(model, prompt: list[int], answer: list[int]):
    """The distributions of the answer's tokens by transformers itself, as log-probabilities.

    In fp64, so that of what differs only one side's rounding is left.
    """
    import torch

    with torch.inference_mode():
        logits = model.double().eval()(torch.tensor([prompt + answer])).logits[0]
    return logits[len(prompt) - 1 : len(prompt + answer) - 1].log_softmax(-1)


async def test_divergences_equal_a_direct_computation(llama, adapters, precise):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama)
    prompt = tokenizer("<|user|>What is 6*7?<|end|><|assistant|>")["input_ids"]
    messages = (Message("user", "What is 6*7?"),)
    names = (None, "a0", "a1")
    models = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), adapters / name)
        if name
        else AutoModelForCausalLM.from_pretrained(llama)
        for name in names
    ]
    texts = ["42", "The answer is 41, so \\boxed{41}.", "x" * 300]
    refs = [ModelRef(name or "base", "local:x", name) for name in names]
    jobs = [(p, text) for p in range(3) for text in texts]
    found = await asyncio.gather(
        *(precise.divergences(refs[p], refs, messages, text) for p, text in jobs)
    )
    for (p, text), divergences in zip(jobs, found, strict=True):
        answer = tokenizer(text)["input_ids"]
        expected_p = logits_of(models[p], prompt, answer)
        assert divergences[p].nats == pytest.approx([0.0] * len(answer), abs=1e-6)
        for q, divergence in enumerate(divergences):
            expected = torch.nn.functional.kl_div(
                logits_of(models[q], prompt, answer), expected_p, reduction="none", log_target=True
            ).sum(-1)
            assert divergence.token_ids == tuple(answer)
            assert divergence.nats == pytest.approx(expected.tolist(), abs=1e-4)


async def test_a_full_fine_tune_is_compared_with_the_base(llama, tmp_path, make_model):
    make_model(tmp_path / "tuned")
    # A full fine-tune has float32 weights, whatever type the base's have.
    provider = connect(str(llama), {"threads": 1, "dtype": "float32"}, tmp_path)
    assert provider.capabilities.divergences
    [same] = await provider.divergences(
        ModelRef("tuned", "local:x", "tuned"), [provider.base], (Message("user", "1+1"),), "two"
    )
    assert same.nats == pytest.approx([0.0] * 3, abs=1e-6)
    await provider.close()


async def test_a_text_too_long_to_compare_fails_alone(provider):
    messages = (Message("user", "1+1"),)
    long, short = await asyncio.gather(
        provider.divergences(provider.base, [ModelRef("a1", "local:x", "a1")], messages, "x" * 600),
        provider.divergences(provider.base, [ModelRef("a1", "local:x", "a1")], messages, "two"),
        return_exceptions=True,
    )
    assert isinstance(long, ContextOverflow)
    assert len(short[0].nats) == 3


async def test_little_memory_compares_in_halves(llama, adapters):
    from providers.local.engine import Engine

    settings = LocalSettings(threads=1)
    models = LocalModels(locate_model(str(llama), settings), settings, adapters)

    def small_device(module, args, kwargs):
        if kwargs["input_ids"].shape[0] > 4:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 PB")

    models.base.model.register_forward_pre_hook(small_device, with_kwargs=True)
    engine = Engine(models, settings)
    messages = (Message("user", "1+1"),)
    waiting = [engine.compare([None, "a0", "a1"], messages, f"so {i}") for i in range(4)]
    found = [future.result(60) for future in waiting]
    engine.close()
    assert all(len(divergences) == 2 for divergences in found)
