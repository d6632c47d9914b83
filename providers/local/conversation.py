"""Conversations as token ids: the prompt that is sent, and the example that starts with it.

Both come from the model's own chat template. A training example is the prompt of inference, token
for token, followed by the answer. It is never one rendering of the whole conversation: templates
may rewrite earlier turns, or open an answer differently from how they show a finished one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import partial
from typing import Any

from providers.errors import BadRequest, InvalidTrainingData
from providers.local.thoughts import CHANNEL, split_channels
from providers.types import Example, Message, PromptTemplate

# "-d" is the day without a leading zero, as templates write it on Linux and macOS.
_DIRECTIVES = (*"aAbBcCdDeFgGhHIjmMnprRsStTuUVwWxXyYzZ", *(f"-{letter}" for letter in "dmHIMSjy"))


@dataclass(frozen=True)
class TrainingSequence:
    """A training sequence, cut after its last trained token.

    `trained[i]` says whether the loss is on `token_ids[i]`. Both have shape (tokens,). `weight`
    multiplies the loss of each token.
    """

    token_ids: list[int]
    trained: list[bool]
    weight: float = 1.0


def pin_date(tokenizer: Any, day: date) -> None:
    """Let the chat template of `tokenizer` see `day`, at noon UTC, as the present.

    Templates of Llama 3, Mistral Small, SmolLM3 and others call `strftime_now`, so that a prompt,
    and with it every answer, would change at midnight.
    """
    # transformers passes only plain data into a template, so a macro in front of it hides the
    # function.
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        tokenizer.apply_chat_template = partial(
            tokenizer.apply_chat_template, chat_template=_build_date_macro(day) + template
        )


def pin_arguments(tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    """Give the chat template of `tokenizer` these values, in prompts and in training alike."""
    if arguments:
        tokenizer.apply_chat_template = partial(tokenizer.apply_chat_template, **arguments)


def describe_template(tokenizer: Any) -> PromptTemplate:
    """What `tokenizer` writes prompts with, after `pin_date` and `pin_arguments`."""
    pinned = dict(getattr(tokenizer.apply_chat_template, "keywords", {}))
    text = pinned.pop("chat_template", None) or tokenizer.get_chat_template()
    tokens = {
        name: str(token)
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    }
    return PromptTemplate(str(text), {**tokens, **pinned})


def _build_date_macro(day: date) -> str:
    """A Jinja macro `strftime_now(format)` that writes `day` for every directive of strftime."""
    noon = datetime.combine(day, time(12), UTC)
    written = {"s": str(int(noon.timestamp()))}
    for directive in _DIRECTIVES:
        written.setdefault(directive, noon.strftime(f"%{directive}"))
    steps = [("%%", "\0"), *((f"%{key}", value) for key, value in written.items()), ("\0", "%")]
    replaced = "".join(f" | replace({json.dumps(a)}, {json.dumps(b)})" for a, b in steps)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro -%}}"


def find_ends(tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the end of sequence, and what the chat template ends turns with.

    The end of sequence is often another token: that of a Qwen base is `<|endoftext|>`, and its
    template ends turns with `<|im_end|>`, which is what training teaches. An answer that calls a
    tool may have an end of its own (`<|call|>` of gpt-oss). What ends a part of an answer, such as
    `<|end|>` after the thoughts of gpt-oss, is none.

    ```python
    find_ends(tokenizer)  # frozenset({151643, 151645}) for Qwen2.5
    ```
    """
    found = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    question = Message("user", "QUESTION")
    for before in (
        [question],
        [Message("system", "SYSTEM"), question],
        [question, Message("assistant", "ANSWER"), question],
    ):
        end_ids, place = _find_end(tokenizer, before)
        found.update(end_ids[place : place + 1] if place is not None else ())
    found.update(_find_tool_call_end(tokenizer))
    return frozenset(found)


def find_part_ends(tokenizer: Any) -> frozenset[int]:
    """Special tokens that the template sets between thoughts and answer, so that they end neither.

    Empty for a template that shows no thoughts, or shows them as part of the answer.
    """
    turns = [
        {"role": "user", "content": "QUESTION"},
        # The two names that templates know for it.
        {
            "role": "assistant",
            "content": "ANSWER",
            "thinking": "THOUGHT",
            "reasoning_content": "THOUGHT",
        },
    ]
    text = _try_render(tokenizer, turns)
    if "THOUGHT" not in text or "ANSWER" not in text:
        return frozenset()
    between = text.rpartition("THOUGHT")[2].partition("ANSWER")[0]
    return _list_special(tokenizer) & frozenset(_tokenize(tokenizer, between))


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of `messages`, with the template's opening of the assistant's answer at the end.

    Raises `BadRequest` if the chat template refuses the conversation.

    ```python
    encode_prompt(tokenizer, [Message("user", "What is 2+2?")])
    ```
    """
    return _tokenize(tokenizer, render_prompt(tokenizer, messages))


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The text of `encode_prompt`. `tokenizer` may be anything with a chat template.

    Raises `BadRequest` if the chat template refuses the conversation.
    """
    return _render_template(tokenizer, messages, answer_follows=True)


def decode_answer(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of an answer, from its tokens without the one that ended it.

    Special tokens that mark its structure, such as the channels of gpt-oss, stay: without them
    neither a thought could be told from the answer, nor would training teach what was sampled.
    """
    filling = {tokenizer.bos_token_id, tokenizer.pad_token_id}
    kept = [token for token in token_ids if token not in filling]
    return str(
        tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def encode_example(tokenizer: Any, example: Example) -> TrainingSequence:
    """The sequence that trains the messages `example.loss_on`, each with its end-of-turn token.

    The end-of-turn token is the first special token that the template sets after an answer, or the
    tokenizer's end of sequence if it sets none; no loss is on what follows it. The tokens before
    the last trained message are `encode_prompt` of the messages before it. Later messages are left
    out. An earlier trained message must be, with its own prompt of inference, a prefix of that
    sequence. If the template rewrites earlier turns it is not, and the example is refused: it would
    train an answer to a prompt that was never sent.

    Raises `InvalidTrainingData` for such an example, for a `loss_on` that names no assistant
    message, for a conversation that the template refuses, and if neither the template nor the
    tokenizer has an end-of-turn token.

    ```python
    messages = (Message("user", "What is 2+2?"), Message("assistant", "4"))
    sequence = encode_example(tokenizer, Example(messages, loss_on=(1,)))
    ```
    """
    loss_on = sorted(set(example.loss_on))
    if not loss_on:
        raise InvalidTrainingData("an example trains no message; `loss_on` must name at least one")
    for index in loss_on:
        if not 0 <= index < len(example.messages) or example.messages[index].role != "assistant":
            raise InvalidTrainingData(f"loss_on={index} is not the index of an assistant message")
    try:
        *earlier, (prompt, answer) = [
            _encode_prompt_and_answer(tokenizer, example.messages[: index + 1]) for index in loss_on
        ]
    except BadRequest as error:
        raise InvalidTrainingData(str(error)) from error
    token_ids = prompt + answer
    trained = [False] * len(prompt) + [True] * len(answer)
    for index, (prompt, answer) in zip(loss_on, earlier, strict=False):
        start, end = len(prompt), len(prompt) + len(answer)
        if token_ids[:end] != prompt + answer:
            raise InvalidTrainingData(
                f"message {index} cannot be trained together with message {loss_on[-1]}: the chat "
                "template shows it differently once another turn follows; train only the last "
                "message, or give each its own example"
            )
        trained[start:end] = [True] * (end - start)
    return TrainingSequence(token_ids, trained, example.weight)


def _encode_prompt_and_answer(
    tokenizer: Any, messages: Sequence[Message]
) -> tuple[list[int], list[int]]:
    """Token ids of the prompt before the last message, and of that message with its end.

    The answer is written as the template shows it if only outer whitespace differs. Otherwise the
    message itself follows the prompt, as it did when it was sampled. (A template may open an answer
    with more than it shows of a finished one, or add to it.)
    """
    content = messages[-1].content
    prompt_text = _render_template(tokenizer, messages[:-1], answer_follows=True)
    end_ids, end = _find_end(tokenizer, messages[:-1])
    ending = _find_ending(tokenizer, messages[:-1])
    answer_text = content
    # A template may refuse an answer with structure of its own, such as the channels of gpt-oss.
    with contextlib.suppress(BadRequest):
        whole_text = _render_template(tokenizer, messages, answer_follows=False)
        shown = whole_text.removeprefix(prompt_text).removesuffix(ending)
        if shown.strip() == content.strip():
            answer_text = shown
    prompt = _tokenize(tokenizer, prompt_text)

    def encode_answer(end_text: str) -> list[int]:
        # In one piece if the border of prompt and answer is one of tokens: some tokenizers set a
        # space before text that stands alone.
        joined = _tokenize(tokenizer, prompt_text + answer_text + end_text)
        if joined[: len(prompt)] == prompt:
            return joined[len(prompt) :]
        return _tokenize(tokenizer, answer_text + end_text)

    if end is not None:
        # Count from the right: the answer itself may spell an end-of-turn token.
        whole = encode_answer(ending)
        return prompt, whole[: len(whole) - len(end_ids) + end + 1]
    if tokenizer.eos_token_id is None:
        raise InvalidTrainingData(
            "neither the chat template nor the tokenizer has an end-of-turn token, so a model "
            "would never learn to stop; set the tokenizer's eos_token"
        )
    return prompt, [*encode_answer(""), int(tokenizer.eos_token_id)]


def _find_end(tokenizer: Any, before: Sequence[Message]) -> tuple[list[int], int | None]:
    """The token ids that the template sets after an answer, and where in them the end-of-turn token
    is: the first special one; None without any."""
    end_ids = _tokenize(tokenizer, _find_ending(tokenizer, before))
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return end_ids, next((place for place, token in enumerate(end_ids) if token in special), None)


def _find_ending(tokenizer: Any, before: Sequence[Message]) -> str:
    """What the template sets after an assistant message, tried with an answer it leaves alone."""
    answer = "ANSWER"
    try:
        text = _render_template(
            tokenizer, [*before, Message("assistant", answer)], answer_follows=False
        )
    except BadRequest:
        return ""
    _, found, ending = text.rpartition(answer)
    return ending if found else ""


def _find_tool_call_end(tokenizer: Any) -> list[int]:
    """The special token that a template with tools sets after a call of one; empty without any."""
    # Templates of Mistral want an id of nine letters and digits.
    call = {"name": "TOOL", "arguments": {}}
    calls = [{"id": "call00001", "type": "function", "function": call}]
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "QUESTION"},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    text = _try_render(tokenizer, turns)
    last = _tokenize(tokenizer, text.rstrip())[-1:] if "TOOL" in text else []
    # A closing tag that is no special token, such as </tool_call>, may be followed by another call.
    return [token for token in last if token in _list_special(tokenizer)]


def _list_special(tokenizer: Any) -> frozenset[int]:
    """The special tokens; a tokenizer file marks some that are not among the named ones."""
    marked = (token for token, added in tokenizer.added_tokens_decoder.items() if added.special)
    return frozenset([*tokenizer.all_special_ids, *marked])


def _try_render(tokenizer: Any, turns: list[dict[str, Any]]) -> str:
    """The text of a conversation that the template need not understand; empty if it does not."""
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False))
    # A template without tools or thoughts may stumble over them in any way.
    except (TemplateError, ValueError, TypeError, AttributeError):
        return ""


def _render_template(tokenizer: Any, messages: Sequence[Message], *, answer_follows: bool) -> str:
    from jinja2 import TemplateError

    turns = [_format_turn(tokenizer, message) for message in messages]
    # Templates show the thought of the last answer only, and need it apart.
    if turns and not answer_follows and (thought := _find_channel_thought(messages[-1])):
        turns[-1] |= {"thinking": thought}
    try:
        text = tokenizer.apply_chat_template(
            turns, add_generation_prompt=answer_follows, tokenize=False
        )
    except (TemplateError, ValueError) as error:
        roles = ", ".join(message.role for message in messages) or "none"
        raise BadRequest(
            f"the model's chat template refuses a conversation of {roles}: {error}"
        ) from error
    return str(text)


def _format_turn(tokenizer: Any, message: Message) -> dict[str, str]:
    """A message as the template takes it: templates with channels refuse them in the content."""
    content = message.content
    in_channels = message.role == "assistant" and CHANNEL in content
    if in_channels and CHANNEL in tokenizer.get_chat_template():
        content = split_channels(content).final
    return {"role": message.role, "content": content}


def _find_channel_thought(message: Message) -> str:
    return split_channels(message.content).thought if CHANNEL in message.content else ""


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
