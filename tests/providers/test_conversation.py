"""Training examples start with the prompt of inference and teach the answer and its end."""

import pytest

from providers.base import Example, Message
from providers.errors import BadRequest, InvalidTrainingData
from providers.local.conversation import encode_example, encode_prompt
from tests.providers.training_fixtures import (
    CHATML,
    LLAMA3,
    OPENED_REASONING,
    PLAIN,
    REASONING,
    make_tokenizer,
)

DEBATE = (
    Message("user", "What is 1+2?"),
    Message("assistant", "<think>one, two</think>the sum is 3"),
    Message("user", "another agent says: the total is 4"),
    Message("assistant", "<think>no</think>the answer is 3"),
)


def learnt_text(tokenizer, encoded):
    pairs = zip(encoded.token_ids, encoded.learnt, strict=True)
    return tokenizer.decode([token for token, learnt in pairs if learnt])


@pytest.mark.parametrize("template", [CHATML, LLAMA3, REASONING, OPENED_REASONING, PLAIN])
@pytest.mark.parametrize("last", [1, 3])
def test_training_prompt_is_the_prompt_that_was_sent(template, last):
    tokenizer = make_tokenizer(template)
    encoded = encode_example(tokenizer, Example(DEBATE, (last,)))
    prompt = encode_prompt(tokenizer, DEBATE[:last])
    assert encoded.token_ids[: len(prompt)] == prompt
    assert encoded.learnt == [False] * len(prompt) + [True] * (len(encoded.learnt) - len(prompt))
    sent = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in DEBATE[:last]],
        add_generation_prompt=True,
    )["input_ids"]
    assert prompt == sent


@pytest.mark.parametrize("template", [CHATML, LLAMA3, REASONING, OPENED_REASONING])
def test_answer_and_its_end_are_learnt_and_nothing_after(template):
    tokenizer = make_tokenizer(template)
    for last in (1, 3):
        encoded = encode_example(tokenizer, Example(DEBATE, (last,)))
        assert learnt_text(tokenizer, encoded) == DEBATE[last].content + "<|im_end|>"
        assert encoded.token_ids[-1] == tokenizer.eos_token_id


def test_template_without_an_end_learns_the_end_of_sequence():
    tokenizer = make_tokenizer(PLAIN)
    encoded = encode_example(tokenizer, Example(DEBATE[:2], (1,)))
    assert learnt_text(tokenizer, encoded) == " " + DEBATE[1].content + "<|im_end|>"


def test_no_end_of_turn_anywhere_is_an_error():
    tokenizer = make_tokenizer(PLAIN)
    tokenizer.eos_token = None
    with pytest.raises(InvalidTrainingData, match="eos_token"):
        encode_example(tokenizer, Example(DEBATE[:2], (1,)))


def test_all_answers_can_be_learnt_where_the_template_keeps_them():
    tokenizer = make_tokenizer(CHATML)
    encoded = encode_example(tokenizer, Example(DEBATE, (1, 3)))
    both = f"{DEBATE[1].content}<|im_end|>{DEBATE[3].content}<|im_end|>"
    assert learnt_text(tokenizer, encoded) == both
    assert encoded.token_ids == encode_example(tokenizer, Example(DEBATE, (3,))).token_ids


@pytest.mark.parametrize("template", [REASONING, OPENED_REASONING])
def test_a_rewritten_earlier_answer_is_refused(template):
    with pytest.raises(InvalidTrainingData, match="message 1 cannot be learnt together"):
        encode_example(make_tokenizer(template), Example(DEBATE, (1, 3)))


def test_default_system_text_is_in_the_prompt():
    tokenizer = make_tokenizer(LLAMA3)
    text = tokenizer.decode(encode_prompt(tokenizer, DEBATE[:1]))
    assert text.startswith("<|bos|><|im_start|>system\n\nYou are a careful solver.")


@pytest.mark.parametrize("answer", ["", " ", "so <|im_end|> or not", "ANSWER", "7\n", "Ω≈ç√ 🙂"])
def test_odd_answers(answer):
    tokenizer = make_tokenizer(CHATML)
    messages = (Message("user", "say it"), Message("assistant", answer))
    encoded = encode_example(tokenizer, Example(messages, (1,)))
    assert learnt_text(tokenizer, encoded) == answer + "<|im_end|>"


@pytest.mark.parametrize("learn", [(), (0,), (4,), (-1,)])
def test_learn_must_name_assistant_messages(learn):
    with pytest.raises(InvalidTrainingData, match="learn"):
        encode_example(make_tokenizer(), Example(DEBATE, learn))


def test_what_the_template_refuses():
    tokenizer = make_tokenizer("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadRequest, match="roles must alternate"):
        encode_prompt(tokenizer, DEBATE[:1])
    with pytest.raises(InvalidTrainingData, match="roles must alternate"):
        encode_example(tokenizer, Example(DEBATE, (3,)))
