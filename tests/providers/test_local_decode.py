"""The decoding loop against transformers' own generate, and what it does with batches."""

import asyncio
from pathlib import Path

import pytest

from providers.local.conversation import decode_answer
from providers.local.factory import connect
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.types import Message, Request

QUESTIONS = (
    "What is the result of 3+4*2+9-1*5?",
    "Why?",
    "These are the solutions to the problem from other agents: one says 42, one says 41. Using the "
    "reasoning from other agents as additional information, can you give an updated answer?",
    "7*8",
    "x" * 90,
)


def answers(base: Path, workdir: Path, requests: list[Request], **settings) -> list[str]:
    """The texts a provider gives, in the precision in which `generated` works, when all requests
    are waiting at once."""

    async def main() -> list[str]:
        exact = {"threads": 1, "dtype": "float32"}
        provider = connect(str(base), {**exact, **settings}, workdir)
        try:
            done = await asyncio.gather(*(provider.complete(request) for request in requests))
        finally:
            await provider.close()
        return [completion.text for completion in done]

    return asyncio.run(main())


def generated(
    base: Path, questions: tuple[str, ...], adapter: Path | None = None, **settings
) -> list[str]:
    """What transformers' generate says greedily, one question at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    texts = []
    for question in questions:
        chat = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt"
        )
        with torch.inference_mode():
            out = model.generate(**prompt, do_sample=False, max_new_tokens=24, **settings)
        said = out[0, prompt["input_ids"].shape[1] :].tolist()
        if tokenizer.eos_token_id in said:
            said = said[: said.index(tokenizer.eos_token_id)]
        texts.append(decode_answer(tokenizer, said))
    return texts


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "neox", "mistral"])
def test_greedy_answers_equal_generate_on_ragged_prompts(architecture, make_model, tmp_path, ask):
    base = make_model(tmp_path / architecture, architecture)
    requests = [ask(question) for question in QUESTIONS]
    assert answers(base, tmp_path, requests) == generated(base, QUESTIONS)


def test_mixed_adapters_give_what_each_gives_alone_and_in_peft(llama, adapters, ask):
    names = [None, "a0", "a1", "a2"]
    mixed = answers(
        llama, adapters, [ask(question, name) for question in QUESTIONS for name in names]
    )
    said = {name: mixed[place :: len(names)] for place, name in enumerate(names)}
    for name in names:
        alone = answers(llama, adapters, [ask(question, name) for question in QUESTIONS])
        folder = None if name is None else adapters / name
        assert said[name] == alone == generated(llama, QUESTIONS, folder)
    assert len({tuple(texts) for texts in said.values()}) == len(names)


@pytest.mark.parametrize("architecture", ["qwen2", "mistral"])
def test_adapters_mix_on_other_architectures(architecture, make_model, make_adapter, tmp_path, ask):
    base = make_model(tmp_path / architecture, architecture)
    adapter = make_adapter(tmp_path / "tuned", base, seed=1)
    mixed = answers(
        base, tmp_path, [ask(question, name) for question in QUESTIONS for name in (None, "tuned")]
    )
    assert mixed[::2] == generated(base, QUESTIONS)
    assert mixed[1::2] == generated(base, QUESTIONS, adapter)


def test_sampled_answers_do_not_depend_on_the_batch(llama, adapters, ask):
    names = [None, "a0", "a1"]
    requests = [
        ask(
            QUESTIONS[i % 5][: 3 + i],
            names[i % 3],
            key=f"q{i}",
            temperature=1.0 if i % 4 else 0.0,
            top_p=0.9 if i % 2 else 1.0,
            seed=3,
        )
        for i in range(60)
    ]
    together = answers(llama, adapters, requests)
    backwards = answers(llama, adapters, requests[::-1], max_batch_size=17)
    alone = answers(llama, adapters, requests[:6], max_batch_size=1)
    assert together == backwards[::-1]
    assert together[:6] == alone
    assert len(set(together)) > 50


def test_rows_that_end_leave_and_others_take_their_place(llama):
    from providers.local.backbone import Backbone
    from providers.local.decode import SlotDecoder
    from providers.local.rows import DecodingRow
    from providers.types import Sampling

    settings = LocalSettings(threads=1)
    decoder = SlotDecoder(Backbone(locate_model(str(llama), settings), settings), 32, 4096)
    lengths = [1 + i % 20 for i in range(48)]
    rows = [
        DecodingRow(
            tuple(range(5, 8 + i)), None, Sampling(temperature=0.0, max_tokens=lengths[i]), f"{i}"
        )
        for i in range(48)
    ]
    waiting, ended, most = list(rows), [], 0
    while waiting or decoder.active:
        joining = decoder.select_fitting(waiting) if waiting else []
        if joining:
            decoder.admit(joining)
            waiting = [row for row in waiting if row not in joining]
        most = max(most, decoder.active)
        ended += decoder.step()
    assert most <= 32
    assert {row.key for row in ended} == {row.key for row in rows}
    assert all(
        len(row.answer) == n or row.finish == "stop" for row, n in zip(rows, lengths, strict=True)
    )


def test_long_newcomer_joins_a_few_stragglers(llama, ask):
    requests = [ask("1+1", key=f"s{i}", max_tokens=40 if i == 0 else 4) for i in range(40)]
    requests += [ask("y" * 200, key=f"l{i}", max_tokens=30) for i in range(10)]
    joined = answers(llama, llama, requests, max_batch_size=40)
    assert joined[0] == answers(llama, llama, requests[:1])[0]
    assert joined[40] == answers(llama, llama, requests[40:41])[0]


def test_finish_reasons_and_token_counts(llama, ask):
    async def main():
        provider = connect(str(llama), {"threads": 1}, llama)
        requests = [ask("Why?", key=f"{i}", temperature=3.0, max_tokens=200) for i in range(40)]
        done = await asyncio.gather(*(provider.complete(request) for request in requests))
        await provider.close()
        return done

    done = asyncio.run(main())
    assert {completion.finish_reason for completion in done} == {"stop", "length"}
    for completion in done:
        assert (completion.completion_tokens == 200) or completion.finish_reason == "stop"
        assert completion.prompt_tokens == 1 + 4 + 1 + 1
        assert "<|end|>" not in completion.text


def test_one_request_may_hold_a_whole_conversation(llama, ask):
    turns = (
        Message("system", "Be brief."),
        Message("user", "1+1"),
        Message("assistant", "3"),
        Message("user", "Sure?"),
    )
    request = Request(ask("x").model, turns, ask("x").sampling, "k")
    assert len(answers(llama, llama, [request])) == 1


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_repetition_penalty_is_that_of_generate_also_beside_rows_without(
    architecture, make_model, tmp_path, ask
):
    base = make_model(tmp_path / architecture, architecture)
    mixed = answers(
        base, tmp_path, [ask(q, repetition_penalty=p) for q in QUESTIONS for p in (1.0, 1.3)]
    )
    penalized = generated(base, QUESTIONS, repetition_penalty=1.3)
    assert mixed[::2] == generated(base, QUESTIONS)
    assert mixed[1::2] == penalized != mixed[::2]


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_stop_string_ends_an_answer_and_is_cut_off(architecture, make_model, tmp_path, ask):
    base = make_model(tmp_path / architecture, architecture)
    settings = {"threads": 1, "dtype": "float32"}

    async def ask_with(*stops: tuple[str, ...]):
        provider = connect(str(base), settings, tmp_path)
        requests = [ask("Why?", key="k", temperature=1.0, stop=stop) for stop in stops]
        try:
            return await asyncio.gather(*map(provider.complete, requests))
        finally:
            await provider.close()

    [whole] = asyncio.run(ask_with(()))
    text = whole.text
    assert len(text) > 12
    # In the middle, at the beginning, across tokens, the earlier of two, and one that never comes.
    stops = [(text[5:9],), (text[0],), (text[-1],), (text[8], text[4:6]), ("never said",)]
    for stop, done in zip(stops, asyncio.run(ask_with(*stops)), strict=True):
        cut = min([place for each in stop if (place := text.find(each)) >= 0], default=None)
        assert done.text == text[:cut]
        assert done.finish_reason == ("stop" if cut is not None else whole.finish_reason)
        assert done.completion_tokens <= whole.completion_tokens
