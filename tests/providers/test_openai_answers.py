"""How the answers of many servers are read: their ends, the forms of their text, their counts."""

import json
import logging
from pathlib import Path

import pytest

from providers import registry
from providers.errors import RetryableError, UnusableAnswer
from providers.openai.answers import EmbeddedError, parse_answer, parse_ending
from providers.openai.response_bodies import decode_text
from providers.types import Message, Request, Sampling
from tests.providers.chat_server import ChatServer, Reply, fails, says

USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


def read(content="text", finish_reason="stop", *, usage=USAGE, choice=(), **message):
    body = {
        "choices": [
            {
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": finish_reason,
                **dict(choice),
            }
        ],
        "usage": usage,
    }
    return parse_answer(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("stop", ["STOP", "Complete", "FINISHED", "end_turn", "endTurn", "end-turn", "EOS", "eos"]),
        ("stop", ["eos_token", "eosFound", "FinishReason.STOP", "FINISH_REASON_STOP", "</s>"]),
        ("stop", ["<|im_end|>", "STOP_SEQUENCE", "stop sequence", {"type": "stop", "matched": 2}]),
        ("length", ["MAX_TOKENS", "maxTokens", "length", "Length", "model_length", "max-tokens"]),
        ("length", ["contextLengthExceeded", {"type": "length"}, "STOP_REASON_MAX_TOKENS"]),
        ("filtered", ["content_filter", "SAFETY", "content_filter: RECITATION", "sensitive"]),
        ("refused", ["refusal", "REFUSAL"]),
        ("tool", ["tool_calls", "TOOL_CALL", "function_call", "tool_use", "toolCalls"]),
        ("broken", ["error", "ERROR", "abort", "insufficient_system_resource", "timeout"]),
        ("broken", ["network_error", "engineOverloaded", "user_cancel", "INTERNAL-ERROR"]),
        ("unknown", [None, "", " ", "null", "None", "OTHER", "something_new", 3, True]),
    ],
)
def test_the_words_for_an_end_are_known_however_they_are_written(kind, words):
    assert {str(word): parse_ending(word).kind for word in words} == {str(w): kind for w in words}


@pytest.mark.parametrize("word", ["OTHER", "", None, "tool_calls", "weird", 7])
def test_a_text_that_ended_in_an_unknown_way_is_an_answer(word):
    answer = read("\\boxed{4}", word)
    assert (answer.text, answer.finish_reason, answer.error) == ("\\boxed{4}", "stop", None)


@pytest.mark.parametrize(
    ("content", "word", "message", "reason", "why"),
    [
        (None, "length", {"reasoning_content": "hm"}, "length", "spent all its 3 tokens on reason"),
        ("", "MAX_TOKENS", {"reasoning": "hm"}, "length", "raise sampling.max_tokens"),
        ("", "length", {}, "length", "wrote no text"),
        (None, "stop", {"reasoning_content": "It is 4."}, "stop", "is in reasoning_content"),
        ([{"type": "thinking", "thinking": "hm"}], "stop", {}, "stop", "parts with reasoning"),
        (None, "tool_calls", {"tool_calls": [{}]}, "error", "called a tool"),
        (None, "content_filter", {}, "filtered", "'content_filter'"),
        ("", "SAFETY", {}, "filtered", "'SAFETY'"),
        ("", "something_new", {}, "error", "'something_new', which is not known"),
        (None, None, {}, "stop", "has no finish_reason"),
        (" \n", "stop", {}, "stop", "without a text"),
        ([], "eos", {}, "stop", "without a text"),
    ],
)
def test_what_has_no_text_has_a_reason(content, word, message, reason, why):
    answer = read(content, word, **message)
    assert answer.finish_reason == reason
    assert why in (answer.error or "")


def test_a_refusal_is_a_text_of_its_own_and_an_empty_one_is_none():
    assert read(None, refusal="I won't.").finish_reason == "refused"
    assert read("4", refusal="").finish_reason == "stop"
    assert read("4", refusal=None).text == "4"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        (["a", "b"], "ab"),
        (["a", {"text": "b"}], "ab"),
        ([{"type": "output_text", "text": {"value": "a"}}], "a"),
        ({"type": "text", "text": "a"}, "a"),
        ({"role": "model", "parts": [{"text": "a"}, {"thought": True, "text": "hm"}]}, "a"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, "a"], "a"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "a"}], "a"),
        ([{"type": "image_url", "image_url": {}}, {"type": "text", "text": "a"}], "a"),
        ([None, "a"], "a"),
        (42, "42"),
        (4.5, "4.5"),
        ("a \ud83d b", "a ? b"),
    ],
)
def test_the_text_is_found_in_every_form_that_servers_give_it(content, text):
    assert read(content).text == text


@pytest.mark.parametrize("content", [{"answer": 42}, True, [[[[[[[[[["deep"]]]]]]]]]], [{"a": 1}]])
def test_a_content_of_another_form_is_refused_with_what_it_is(content):
    with pytest.raises(UnusableAnswer, match="its content is"):
        read(content)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 7.0, "completion_tokens": 2.5}, (7, 3)),
        ({"prompt_tokens": "7", "completion_tokens": "3"}, (7, 3)),
        ({"prompt_tokens": 7, "completion_tokens": None}, (7, None)),
        ({"prompt_tokens": -1, "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": 10**12, "completion_tokens": 3}, (None, 3)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (None, None)),
        ({"prompt_tokens": 7, "total_tokens": 10}, (7, 3)),
        ({"input_tokens": 7, "output_tokens": 3}, (7, 3)),
        ({"prompt_tokens": [7], "completion_tokens": {}}, (None, None)),
        ({}, (None, None)),
        (None, (None, None)),
        ("", (None, None)),
        ([], (None, None)),
        ([{"prompt_tokens": 7}], (None, None)),
    ],
)
def test_token_counts_are_taken_where_they_make_sense(usage, counts):
    answer = read(usage=usage)
    assert (answer.prompt_tokens, answer.completion_tokens) == counts
    assert answer.text == "text"


@pytest.mark.parametrize(
    "error", [None, {}, "", [], {"code": 0, "message": ""}, {"code": None}, False]
)
def test_an_error_that_says_nothing_is_none(error):
    assert read(choice={"error": error}).text == "text"


@pytest.mark.parametrize("error", [{"code": 502, "message": "gone"}, "gone", [{"message": "gone"}]])
def test_an_error_inside_a_choice_is_an_error(error):
    with pytest.raises(EmbeddedError):
        read("half of it", "error", choice={"error": error})


@pytest.mark.parametrize(
    "body",
    [
        {"code": 50000, "message": "internal"},
        {"detail": "internal"},
        {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}, "choices": None},
        {"error": "internal", "choices": []},
        {"errors": [{"message": "internal"}]},
    ],
)
def test_a_body_without_choices_that_tells_an_error_is_one(body):
    with pytest.raises(EmbeddedError):
        parse_answer(json.dumps(body).encode())


@pytest.mark.parametrize("body", [[1], 3, "text", None, {"candidates": []}, {"choices": ["a"]}, {}])
def test_json_of_another_form_is_refused_once(body):
    with pytest.raises(UnusableAnswer, match="not usable"):
        parse_answer(json.dumps(body).encode())


@pytest.mark.parametrize("raw", [b"", b"{", b"<html>", b'{"choices": [{"mess', b"\xff\x00\x12"])
def test_what_is_no_json_may_be_better_next_time(raw):
    with pytest.raises(RetryableError, match="no JSON"):
        parse_answer(raw)


def test_nesting_without_end_is_refused():
    with pytest.raises(UnusableAnswer, match="nested too deeply"):
        parse_answer(b'{"choices": ' + b"[" * 200_000)


TEXT = '{"t": "5 €, naïve, ½"}'


@pytest.mark.parametrize(
    ("content", "charset"),
    [
        (TEXT.encode(), None),
        (TEXT.encode("utf-8-sig"), None),
        (TEXT.encode("utf-16"), None),
        (TEXT.encode("utf-16-le"), None),
        (TEXT.encode("utf-16-be"), "utf-8"),
        (TEXT.encode("utf-32"), None),
        (TEXT.encode("cp1252"), None),
        (TEXT.encode("cp1252"), "utf-8"),
        (TEXT.encode("cp1252"), "no-such-charset"),
        (TEXT.encode(), "latin-1"),
    ],
)
def test_bodies_are_read_in_whatever_encoding_they_come(content, charset):
    assert decode_text(content, charset) == TEXT


def test_a_declared_charset_is_followed_and_half_a_character_does_not_spoil_the_rest():
    assert decode_text("ответ".encode("koi8-r"), "KOI8-R") == "ответ"
    assert decode_text("für die Größe ½".encode() + b"\xc3") == "für die Größe ½\ufffd"


def test_a_stream_that_nobody_asked_for_is_read_as_one_answer():
    chunks = [
        {"choices": [{"delta": {"role": "assistant"}}]},
        {"choices": [{"delta": {"content": "it is "}}]},
        {"choices": [{"delta": {"content": "4"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": USAGE},
    ]
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    answer = parse_answer((": waiting\n\n" + stream + "data: [DONE]\n\n").encode())
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("it is 4", "stop", 3)
    with pytest.raises(RetryableError, match="breaks off"):
        parse_answer(stream[: stream.index("4")].rsplit("data", 1)[0].encode())
    with pytest.raises(EmbeddedError):
        parse_answer(b'data: {"error": {"message": "gone", "code": 502}}\n\n')


def test_a_text_without_an_end_that_fills_max_tokens_is_truncated():
    sampling = Sampling(max_tokens=3)
    assert read("text", "").infer_truncation(sampling).finish_reason == "length"
    assert read("text", "OTHER").infer_truncation(sampling).finish_reason == "length"
    assert read("text", "stop").infer_truncation(sampling).finish_reason == "stop"
    assert read("text", "").infer_truncation(Sampling(max_tokens=4)).finish_reason == "stop"


async def ask_three_times(script, **settings):
    async with ChatServer(script) as server:
        provider = registry.connect(f"openai+{server.url}:m", settings, Path())
        request = Request(provider.base, (Message("user", "Hi"),), Sampling(), "key")
        try:
            return [await provider.complete(request) for _ in range(3)], server.asked
        finally:
            await provider.close()


async def test_an_unknown_word_is_told_once(caplog):
    words = iter(["weird", "STOP", "weird"])
    with caplog.at_level(logging.WARNING):
        answers, _ = await ask_three_times(lambda asked: says("x", next(words)))
    assert [answer.finish_reason for answer in answers] == ["stop"] * 3
    assert len([r for r in caplog.records if "'weird'" in r.message]) == 1


@pytest.mark.parametrize(
    "bad",
    [
        says("half", "error"),
        says("half", "insufficient_system_resource"),
        Reply({"choices": [{"message": {"content": "half"}, "error": {"code": 502}}]}),
        Reply({"code": 503, "message": "busy"}),
        Reply({"error": {"type": "overloaded_error", "message": "busy"}}),
        fails(200, "slow", code="rate_limit_exceeded"),
        Reply(raw=b"<html>busy</html>"),
    ],
)
async def test_what_the_server_could_not_finish_is_asked_again(bad):
    answers, asked = await ask_three_times(lambda a: bad if a.number == 1 else says("x"))
    assert [answer.text for answer in answers] == ["x"] * 3
    assert len(asked) == 4


async def test_what_is_of_another_form_is_not_asked_again():
    with pytest.raises(UnusableAnswer):
        await ask_three_times(lambda asked: Reply({"candidates": []}))
