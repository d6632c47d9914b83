"""Chat completions inside batches: the same parameters, the same reading as for single calls."""

from __future__ import annotations

import json
from collections.abc import Mapping

from providers.base import Completion, Request
from providers.errors import ProviderError
from providers.openai.answers import ErrorInside
from providers.openai.chat import Chat
from providers.openai.client import Connection
from providers.openai.failures import judged, said, status_inside


class BatchChat:
    """A `ChatShape` for the models of one connection.

    What `chat` has learnt about a model's parameters holds here too; nothing can be learnt from a
    batch.
    """

    def __init__(self, connection: Connection, chat: Chat) -> None:
        self._connection = connection
        self._chat = chat

    def body(self, request: Request) -> Mapping[str, object]:
        """The parameters of the chat completion."""
        model = self._name(request)
        return {
            "model": model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            **self._chat.parameters(model).values(request.sampling, request.key, model),
        }

    def completion(self, body: object, request: Request) -> Completion:
        """The answer; its `latency_ms` is 0, since a batch has no latency of single answers."""
        try:
            return self._chat.completion(json.dumps(body).encode(), request)
        except ErrorInside as error:
            failure = self.refusal(status_inside(error.body), error.body)
        raise failure

    def refusal(self, status: int, body: object) -> ProviderError:
        """What an error answer means."""
        told = said(status, body, {}, self._connection.secrets)
        return judged(told, self._connection.address.model)

    def _name(self, request: Request) -> str:
        return request.model.artifact or self._connection.address.model
