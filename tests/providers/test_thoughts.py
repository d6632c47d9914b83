"""Thoughts of reasoning models through the templates of known families: sent, stored, trained."""

import asyncio

import pytest

from providers.errors import InvalidSettings
from providers.local.conversation import (
    decode_answer,
    encode_example,
    encode_prompt,
    find_ends,
    pin_arguments,
)
from providers.local.factory import connect
from providers.local.settings import LocalSettings
from providers.local.thoughts import find_closing
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    Message,
    Request,
    Sampling,
)
from tests.providers.published_templates import make_family_tokenizer

QUESTION = Message("user", "What is 3+4?")
UPDATE = Message("user", "Another agent says: 8.")
TINY = {"threads": 1, "device": "cpu"}
CHANNELS = (
    "<|channel|>analysis<|message|>3+4 is 7.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>It is 7."
)
# What each family writes after its prompt, in the tokens that it was trained on.
SAMPLED = {
    "qwen3": "<think>\n3+4 is 7.\n</think>\n\nIt is 7.",
    "deepseek_r1": "3+4 is 7.\n</think>\n\nIt is 7.",
    "gpt_oss": CHANNELS,
    "gemma4": "<|channel>thought\n3+4 is 7.<channel|>It is 7.",
}


def render(tokenizer, messages):
    return tokenizer.decode(encode_prompt(tokenizer, messages))


@pytest.fixture(params=SAMPLED)
def family(request):
    return request.param


@pytest.fixture
def tokenizer(family):
    found = make_family_tokenizer(family)
    pin_arguments(found, {"enable_thinking": True} if family == "gemma4" else {})
    return found


def test_what_is_sampled_is_stored_and_taught_token_for_token(family, tokenizer):
    sampled = tokenizer(SAMPLED[family], add_special_tokens=False).input_ids
    stored = decode_answer(tokenizer, sampled)
    assert stored == SAMPLED[family]
    prompt = encode_prompt(tokenizer, (QUESTION,))
    example = encode_example(tokenizer, Example((QUESTION, Message("assistant", stored)), (1,)))
    assert example.token_ids[: len(prompt)] == prompt
    assert example.token_ids[len(prompt) : -1] == sampled
    assert example.token_ids[-1] in find_ends(tokenizer)


def test_the_template_shows_an_earlier_answer_without_its_thought(family, tokenizer):
    conversation = (QUESTION, Message("assistant", SAMPLED[family]), UPDATE)
    shown = render(tokenizer, conversation)
    assert "It is 7." in shown
    assert "3+4 is 7." not in shown
    # The same as if there had been no thought.
    answered = (QUESTION, Message("assistant", "It is 7."), UPDATE)
    assert shown.replace("\n\nIt", "It") == render(tokenizer, answered)
    last = Message("assistant", SAMPLED[family].replace("7", "8"))
    example = encode_example(tokenizer, Example((*conversation, last), (3,)))
    prompt = encode_prompt(tokenizer, conversation)
    assert example.token_ids[: len(prompt)] == prompt
    assert tokenizer.decode(example.token_ids[len(prompt) : -1]) == last.content


@pytest.mark.parametrize(
    ("prompt", "closing"),
    [
        ("<｜Assistant｜><think>\n", "</think>"),
        ("<seed:think>", "</seed:think>"),
        ("[/INST][THINK]", "[/THINK]"),
        ("<|turn>model\n<|channel>thought\n", "<channel|>"),
        ("<|turn>model\n<|channel>thought\n<channel|>", None),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", None),
        ("<|im_start|>assistant\n", None),
    ],
)
def test_a_prompt_that_opens_a_thought_is_known(prompt, closing):
    assert find_closing(prompt) == closing


def save_family(folder, name):
    """A tiny model of random weights with the family's template and tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_family_tokenizer(name)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", ["gpt_oss", "deepseek_r1"])
async def test_a_model_that_learnt_to_think_writes_stores_and_rereads_its_thoughts(
    family, tmp_path
):
    said = SAMPLED[family].replace("3+4 is 7.", "7").replace("It is 7.", "7")
    example = Example((QUESTION, Message("assistant", said)), (1,))
    settings = Hyperparameters("full", epochs=60, batch_size=2, learning_rate=1e-2)
    provider = connect(save_family(tmp_path / "model", family), TINY, tmp_path / "models")
    spec = FinetuneSpec("tuned", provider.base, [example] * 2, "0" * 64, settings)
    handle = await provider.submit(spec)
    for _ in range(1000):
        state = await provider.poll(handle)
        if state.done:
            break
        await asyncio.sleep(0.05)
    assert state.model is not None, state.error
    greedy = Sampling(temperature=0.0, max_tokens=120)
    first = await provider.complete(Request(state.model, (QUESTION,), greedy, "k"))
    assert (first.text, first.thought, first.finish_reason) == (said, None, "stop")
    # The template takes the stored answer as a part of the next round's conversation.
    later = (QUESTION, Message("assistant", first.text), UPDATE)
    again = await provider.complete(Request(state.model, later, greedy, "l"))
    await provider.close()
    tokenizer = make_family_tokenizer(family)
    answered = (QUESTION, Message("assistant", "7"), UPDATE)
    expected = len(encode_prompt(tokenizer, answered)) + (2 if family == "deepseek_r1" else 0)
    assert again.prompt_tokens == expected


async def test_a_thought_that_the_prompt_opens_and_max_tokens_cuts_is_no_answer(tmp_path):
    model = save_family(tmp_path / "model", "deepseek_r1")
    provider = connect(model, TINY, tmp_path / "models")
    greedy = Sampling(temperature=0.0, max_tokens=6)
    done = await provider.complete(Request(provider.base, (QUESTION,), greedy, "k"))
    await provider.close()
    assert done.finish_reason == "length"
    assert done.text == ""
    assert done.thought


def test_template_arguments_reach_the_prompt_and_training_alike():
    tokenizer = make_family_tokenizer("qwen3")
    pin_arguments(tokenizer, {"enable_thinking": False})
    prompt = encode_prompt(tokenizer, (QUESTION,))
    assert tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n")
    example = encode_example(tokenizer, Example((QUESTION, Message("assistant", "7")), (1,)))
    assert example.token_ids[: len(prompt)] == prompt
    assert tokenizer.decode(example.token_ids[len(prompt) :]) == "7<|im_end|>"
    settings = LocalSettings(reasoning_effort="high")
    tokenizer = make_family_tokenizer("gpt_oss")
    pin_arguments(tokenizer, settings.template_arguments)
    assert "Reasoning: high" in render(tokenizer, (QUESTION,))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"chat_template_kwargs": {"tokenize": True}}, "'tokenize' is set by this software itself"),
        (
            {"chat_template_kwargs": {"reasoning_effort": "low"}, "reasoning_effort": "low"},
            "reasoning_effort is set twice",
        ),
        ({"reasoning_effort": ""}, "reasoning_effort"),
    ],
)
def test_arguments_that_cannot_be_given_are_refused(settings, says):
    with pytest.raises(InvalidSettings, match=says):
        LocalSettings.read(settings)
