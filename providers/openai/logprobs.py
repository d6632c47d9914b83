"""Log-probabilities of a given text, from a vLLM server.

OpenAI's chat has none. vLLM returns them for prompts: `prompt_logprobs` in the request's body, next
to `continue_final_message`, which leaves the last message open
(https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html). The conversation is sent
twice, with and without the text; the text begins where the two token sequences part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from providers.errors import RetryableError, Unsupported, UnusableAnswer
from providers.openai.answers import EmbeddedError, find_error
from providers.openai.billing import parse_usage
from providers.openai.chat import Chat, ChatCall
from providers.openai.response_bodies import parse_body
from providers.types import Message, Sampling, Score
from providers.usage import Usage, most_prompt_tokens

_ONE_TOKEN = Sampling(temperature=1.0, top_p=1.0, max_tokens=1)
_OWN_TOKENS_ONLY: Mapping[str, object] = {"prompt_logprobs": 0}
_LEFT_OPEN: Mapping[str, object] = {
    "prompt_logprobs": 0,
    "add_generation_prompt": False,
    "continue_final_message": True,
}


class _TokenLogprob(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    logprob: float


class _ScoredBody(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    prompt_logprobs: list[dict[int, _TokenLogprob] | None] | None = None


@dataclass(frozen=True, slots=True)
class PromptScore:
    """Token ids of a prompt from its second token on, and their log-probabilities in nats.

    Shapes: both (tokens - 1,).
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


async def score_text(chat: Chat, model: str, messages: Sequence[Message], text: str) -> Score:
    """Natural logs of the probabilities of `text`'s tokens as the answer of `model` to `messages`,
    at temperature 1 and without the end token.

    A token that joins the end of the template with the beginning of the text belongs to the text.
    Raises `Unsupported` if the server returns no log-probabilities.
    """
    if not text:
        return Score((), ())
    before = await _score_prompt(chat, model, messages, _OWN_TOKENS_ONLY)
    answered = (*messages, Message("assistant", text))
    after = await _score_prompt(chat, model, answered, _LEFT_OPEN, follows=True)
    # The tokenizer may join the last character of the template with the first of the text, so the
    # length of the first sequence is not where the text begins.
    start = _count_common(before.token_ids, after.token_ids)
    return Score(after.token_ids[start:], after.logprobs[start:])


async def _score_prompt(
    chat: Chat,
    model: str,
    messages: Sequence[Message],
    extra: Mapping[str, object],
    *,
    follows: bool = False,
) -> PromptScore:
    def parse(content: bytes, charset: str | None, _: float) -> tuple[PromptScore | None, Usage]:
        bound = Usage(most_prompt_tokens(messages), _ONE_TOKEN.max_tokens, estimated=True)
        return parse_prompt_score(content, charset), parse_usage(content) or bound

    call = ChatCall(model, messages, _ONE_TOKEN, "score", parse, {**chat.extra_body, **extra})
    score = await chat.ask(call, follows=follows)
    if score is None:
        raise Unsupported(
            f"the server of {model} gives no prompt_logprobs, so it is no vLLM; remove score from "
            "[provider], or score with a local model"
        )
    return score


def parse_prompt_score(content: bytes, charset: str | None = None) -> PromptScore | None:
    """The prompt's log-probabilities in vLLM's form; None if the server returned none.

    Raises like `answers.parse_answer`.
    """
    body = parse_body(content, charset)
    if error := find_error(body):
        raise EmbeddedError(error)
    places = _validate_places(body)
    if not places:
        return None
    ids, logprobs = [], []
    # The first token has nothing before it, and so no probability.
    for place in places[1:]:
        if not place:
            raise RetryableError("the server left out the log-probability of a token")
        # Asked for no alternatives, the server returns the prompt's own token, and puts it first.
        token_id, token = next(iter(place.items()))
        ids.append(token_id)
        logprobs.append(token.logprob)
    return PromptScore(tuple(ids), tuple(logprobs))


def _validate_places(body: Mapping[str, Any]) -> list[dict[int, _TokenLogprob] | None] | None:
    try:
        return _ScoredBody.model_validate(body).prompt_logprobs
    except ValidationError as error:
        raise UnusableAnswer(
            f"the server's prompt_logprobs are not usable ({str(error).splitlines()[0]})"
        ) from None


def _count_common(left: Sequence[int], right: Sequence[int]) -> int:
    """The length of the common beginning of both sequences."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))
