"""The objects that go back: completions, the chunks of a stream, and the list of models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from society.view.endpoint.body import ChatQuestion
from society.view.endpoint.forms import AnswerForm
from society.view.endpoint.society import ServedDebate
from store.records import Turn

Json = dict[str, object]

# A refusal of a model is an answer that has ended; OpenAI has no reason of its own for it here.
_FINISH: Mapping[str, str] = {"length": "length", "filtered": "content_filter"}


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What all objects of one reply begin with. `created` in seconds since 1970."""

    reply_id: str
    created: int
    model: str
    fingerprint: str

    def build(self, kind: str) -> Json:
        """The fields, for an object of this kind."""
        return {
            "id": self.reply_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def build_completion(
    head: ReplyHead, question: ChatQuestion, debates: Sequence[ServedDebate], *, shows_debate: bool
) -> Json:
    """The answer to a request that does not stream."""
    choices = []
    for index, debate in enumerate(debates):
        text, finish = cut_answer(debate.answer_turn, question.stop)
        # `refusal` and `logprobs` are there and null, since the published document requires them.
        message: Json = {"role": "assistant", "content": text, "refusal": None}
        if shows_debate and (told := describe_debate(debate)):
            # No field of OpenAI's: what other servers send, and clients and frameworks look for.
            message["reasoning_content"] = told
        choices.append(
            {
                "index": index,
                "message": message,
                "logprobs": None,
                "finish_reason": finish,
                "consensus": describe_consensus(debate),
            }
        )
    return {**head.build("chat.completion"), "choices": choices, "usage": sum_usage(debates)}


def build_chunk(
    head: ReplyHead, index: int, delta: Json, finish: str | None = None, **beside: object
) -> Json:
    """One chunk of a stream, about the choice `index`."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, **beside}
    return {**head.build("chat.completion.chunk"), "choices": [choice]}


def build_final_chunks(
    head: ReplyHead, index: int, question: ChatQuestion, debate: ServedDebate
) -> list[Json]:
    """The answer of a choice, and its end."""
    text, finish = cut_answer(debate.answer_turn, question.stop)
    return [
        build_chunk(head, index, {"content": text}),
        build_chunk(head, index, {}, finish, consensus=describe_consensus(debate)),
    ]


def build_usage_chunk(head: ReplyHead, debates: Sequence[ServedDebate]) -> Json:
    """The last chunk of a stream that was asked for its usage; it has no choices."""
    return {**head.build("chat.completion.chunk"), "choices": [], "usage": sum_usage(debates)}


def list_models(forms: Iterable[AnswerForm], created: int) -> Json:
    """The list of the served models."""
    return {"object": "list", "data": [build_model(form, created) for form in forms]}


def build_model(form: AnswerForm, created: int) -> Json:
    """One served model."""
    return {"id": form.model, "object": "model", "created": created, "owned_by": "society"}


def sum_usage(debates: Sequence[ServedDebate]) -> Json:
    """The tokens of all calls; what is not in the answers themselves counts as reasoning."""
    prompt = sum(debate.prompt_tokens for debate in debates)
    written = sum(debate.completion_tokens for debate in debates)
    said = sum(debate.answer_turn.completion_tokens for debate in debates)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "completion_tokens_details": {"reasoning_tokens": written - said},
    }


def describe_consensus(debate: ServedDebate) -> Json:
    """How the vote went; a field of our own beside OpenAI's."""
    tally = debate.tally
    return {
        "answer": tally.answer,
        "votes": tally.votes,
        "voters": tally.voters,
        "agents": debate.agents,
        "tie": tally.tie,
        "rounds": debate.rounds,
        "calls": len(debate.turns),
    }


def cut_answer(turn: Turn, stop: Sequence[str]) -> tuple[str, str]:
    """The text of an answer before the first of the texts that end it, and how it ended.

    The debate itself is not cut: its agents would lose the answers they have to state.
    """
    places = [place for text in stop if (place := turn.response.find(text)) >= 0]
    if places:
        return turn.response[: min(places)], "stop"
    return turn.response, _FINISH.get(turn.finish_reason, "stop")


def describe_debate(debate: ServedDebate) -> str:
    """All turns as they are told beside the answer, in the order of the debate."""
    # Turns come as they end; here they are read as a whole, so a summary goes before its reader.
    order = sorted(debate.turns, key=lambda turn: (turn.round, turn.kind != "summary", turn.agent))
    return "".join(describe_progress(debate.form, turn) for turn in order)


def describe_progress(form: AnswerForm, turn: Turn) -> str:
    """A turn as it is told while the debate goes on; empty if there is nothing to tell."""
    # A single agent's response is the answer itself, so only its thought stands beside it.
    if form.agent is not None:
        return turn.thought or ""
    who = "summary for agent" if turn.kind == "summary" else "agent"
    said = turn.response or f"({turn.error or 'no response'})"
    thought = f"{turn.thought}\n\n" if turn.thought else ""
    return f"Round {turn.round}, {who} {turn.agent}:\n{thought}{said}\n\n"


def encode_event(data: Json) -> bytes:
    """An event of a stream."""
    return b"data: " + encode_json(data) + b"\n\n"


def encode_json(data: Json) -> bytes:
    """JSON without spaces."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
