"""Training examples start with the prompt of inference and teach the answer and its end."""

from datetime import UTC, date, datetime

import pytest

from providers.errors import BadRequest, InvalidTrainingData
from providers.local.conversation import encode_example, encode_prompt, pin_date
from providers.types import Example, Message
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


def trained_text(tokenizer, encoded):
    pairs = zip(encoded.token_ids, encoded.trained, strict=True)
    return tokenizer.decode([token for token, trained in pairs if trained])


@pytest.mark.parametrize("template", [CHATML, LLAMA3, REASONING, OPENED_REASONING, PLAIN])
@pytest.mark.parametrize("last", [1, 3])
def test_training_prompt_is_the_prompt_that_was_sent(template, last):
    tokenizer = make_tokenizer(template)
    encoded = encode_example(tokenizer, Example(DEBATE, (last,)))
    prompt = encode_prompt(tokenizer, DEBATE[:last])
    assert encoded.token_ids[: len(prompt)] == prompt
    assert encoded.trained == [False] * len(prompt) + [True] * (len(encoded.trained) - len(prompt))
    sent = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in DEBATE[:last]],
        add_generation_prompt=True,
    )["input_ids"]
    assert prompt == sent


@pytest.mark.parametrize("template", [CHATML, LLAMA3, REASONING, OPENED_REASONING])
def test_answer_and_its_end_are_trained_and_nothing_after(template):
    tokenizer = make_tokenizer(template)
    for last in (1, 3):
        encoded = encode_example(tokenizer, Example(DEBATE, (last,)))
        assert trained_text(tokenizer, encoded) == DEBATE[last].content + "<|im_end|>"
        assert encoded.token_ids[-1] == tokenizer.eos_token_id


def test_template_without_an_end_learns_the_end_of_sequence():
    tokenizer = make_tokenizer(PLAIN)
    encoded = encode_example(tokenizer, Example(DEBATE[:2], (1,)))
    assert trained_text(tokenizer, encoded) == " " + DEBATE[1].content + "<|im_end|>"


def test_no_end_of_turn_anywhere_is_an_error():
    tokenizer = make_tokenizer(PLAIN)
    tokenizer.eos_token = None
    with pytest.raises(InvalidTrainingData, match="eos_token"):
        encode_example(tokenizer, Example(DEBATE[:2], (1,)))


def test_all_answers_can_be_trained_where_the_template_keeps_them():
    tokenizer = make_tokenizer(CHATML)
    encoded = encode_example(tokenizer, Example(DEBATE, (1, 3)))
    both = f"{DEBATE[1].content}<|im_end|>{DEBATE[3].content}<|im_end|>"
    assert trained_text(tokenizer, encoded) == both
    assert encoded.token_ids == encode_example(tokenizer, Example(DEBATE, (3,))).token_ids


@pytest.mark.parametrize("template", [REASONING, OPENED_REASONING])
def test_a_rewritten_earlier_answer_is_refused(template):
    with pytest.raises(InvalidTrainingData, match="message 1 cannot be trained together"):
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
    assert trained_text(tokenizer, encoded) == answer + "<|im_end|>"


@pytest.mark.parametrize("loss_on", [(), (0,), (4,), (-1,)])
def test_loss_on_must_name_assistant_messages(loss_on):
    with pytest.raises(InvalidTrainingData, match="loss_on"):
        encode_example(make_tokenizer(), Example(DEBATE, loss_on))


def test_what_the_template_refuses():
    tokenizer = make_tokenizer("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadRequest, match="roles must alternate"):
        encode_prompt(tokenizer, DEBATE[:1])
    with pytest.raises(InvalidTrainingData, match="roles must alternate"):
        encode_example(tokenizer, Example(DEBATE, (3,)))


def dated(template, day=date(2031, 3, 9)):
    """The text of a one-message prompt under a template that writes the date."""
    tokenizer = make_tokenizer(template + CHATML)
    pin_date(tokenizer, day)
    return tokenizer.decode(encode_prompt(tokenizer, (Message("user", "hi"),)))


@pytest.mark.parametrize(
    "form", ["%d %b %Y", "%B %d, %Y", "%Y-%m-%d", "%-d/%-m/%y", "%A %H:%M:%S %p", "100%% %j %U %s"]
)
def test_a_template_sees_the_pinned_day_in_every_form(form):
    expected = datetime(2031, 3, 9, 12, tzinfo=UTC).strftime(form.replace("%s", "1930824000"))
    assert dated(f"{{{{ strftime_now('{form}') }}}}|").startswith(expected + "|")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        # As Llama 3.2 writes it: the function only where there is one.
        (
            "{% if not date_string is defined %}{% if strftime_now is defined %}"
            "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
            "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
            "Today Date: {{ date_string }}\n",
            "Today Date: 09 Mar 2031\n",
        ),
        # As Mistral Small writes it: a computed text, taken apart again.
        (
            "{% set today = strftime_now('%Y-%m-%d') %}{{ today }}, "
            "the year {{ today.split('-')[0] }}.",
            "2031-03-09, the year 2031.",
        ),
        # As gpt-oss writes it: inside a macro.
        (
            "{%- macro system() -%}Current date: {{ strftime_now('%Y-%m-%d') }}{%- endmacro -%}"
            "{{- system() }}.",
            "Current date: 2031-03-09.",
        ),
    ],
)
def test_templates_of_known_families_write_the_pinned_day(template, text):
    assert dated(template).startswith(text)


def test_a_training_prompt_has_the_day_of_the_prompt_that_was_sent():
    tokenizer = make_tokenizer("{{ strftime_now('%c') }} " + CHATML)
    pin_date(tokenizer, date(2026, 1, 1))
    encoded = encode_example(tokenizer, Example(DEBATE, (3,)))
    prompt = encode_prompt(tokenizer, DEBATE[:3])
    assert encoded.token_ids[: len(prompt)] == prompt
    assert "2026" in tokenizer.decode(prompt)


def test_a_template_without_a_date_is_left_as_it_is():
    tokenizer = make_tokenizer(CHATML)
    pin_date(tokenizer, date(2026, 1, 1))
    assert "apply_chat_template" not in vars(tokenizer)
