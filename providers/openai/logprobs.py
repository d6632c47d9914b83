"""Log-probabilities of a given text, from a vLLM server.

OpenAI's chat has none. vLLM gives them for prompts: `prompt_logprobs` in the request's body, next
to `continue_final_message`, which leaves the last message open
(https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html). The conversation is sent
twice, with and without the text; where the two token sequences part, the text begins.
"""

from __future__ import annotations

from collections.abc import Sequence

from providers.attempts import Usage
from providers.errors import Unsupported
from providers.openai.answers import PromptScore, parse_prompt_score
from providers.openai.billing import parse_usage
from providers.openai.chat import Chat
from providers.tokens import most_prompt_tokens
from providers.types import Message, Sampling, Score

_ONE_TOKEN = Sampling(temperature=1.0, top_p=1.0, max_tokens=1)
_OWN_TOKENS_ONLY: dict[str, object] = {"prompt_logprobs": 0}
_LEFT_OPEN: dict[str, object] = {"add_generation_prompt": False, "continue_final_message": True}


async def score_text(chat: Chat, model: str, messages: Sequence[Message], text: str) -> Score:
    """Natural logs of the probabilities of `text`'s tokens as the answer of `model` to `messages`,
    at temperature 1 and without the end token.

    A token that joins the end of the template with the beginning of the text counts to the text.
    Raises `Unsupported` where the server gives none.
    """
    if not text:
        return Score((), ())
    before = await _score_prompt(chat, model, messages, _OWN_TOKENS_ONLY)
    spoken = (*messages, Message("assistant", text))
    after = await _score_prompt(chat, model, spoken, _OWN_TOKENS_ONLY | _LEFT_OPEN, follows=True)
    start = _count_common(before.token_ids, after.token_ids)
    return Score(after.token_ids[start:], after.logprobs[start:])


async def _score_prompt(
    chat: Chat,
    model: str,
    messages: Sequence[Message],
    extra: dict[str, object],
    *,
    follows: bool = False,
) -> PromptScore:
    def read(content: bytes, charset: str | None) -> tuple[PromptScore | None, Usage]:
        bound = Usage(most_prompt_tokens(messages), _ONE_TOKEN.max_tokens, estimated=True)
        return parse_prompt_score(content, charset), parse_usage(content) or bound

    found, _, _ = await chat.ask(model, messages, _ONE_TOKEN, "score", read, extra, follows=follows)
    if found is None:
        raise Unsupported(
            f"the server of {model} gives no prompt_logprobs, so it is no vLLM; remove score from "
            "[provider], or score with a local model"
        )
    return found


def _count_common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both sequences begin with."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))
