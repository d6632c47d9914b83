"""LoRA adapters of a vLLM or SGLang server, changed while it runs.

Both list their adapters under ``/models``, with the folder as ``root`` and the base as ``parent``.
They differ in two ways. vLLM has the administration endpoints below ``/v1``, SGLang beside it. And
a request for an adapter names it as the model in vLLM, but as "BASE:ADAPTER" in SGLang, which
answers a bare adapter name with the base model. From their sources:

    https://github.com/vllm-project/vllm  vllm/entrypoints/openai/models/serving.py
    https://github.com/sgl-project/sglang  python/sglang/srt/entrypoints/openai/serving_base.py
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Literal

import httpx2
from pydantic import BaseModel, ValidationError

from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionLost,
    InvalidSettings,
    Overloaded,
    ProviderError,
    RetryableError,
    TimedOut,
    Unsupported,
)
from providers.limits.retry import RetryPolicy, Sleep, retry
from providers.openai.errors import Refusal, classify_refusal, parse_refusal
from providers.openai.lora_refusals import find_remedy
from providers.openai.server_facts import read_identity
from providers.secrets import Secrets
from providers.server_identity import ServerIdentity
from providers.types import Finding, LoadedAdapter

Dialect = Literal["vllm", "sglang"]
Action = Literal["load_lora_adapter", "unload_lora_adapter"]

RETRIES = RetryPolicy(attempts=6, give_up_after_s=120.0)
_BRIEF = RetryPolicy(attempts=2, give_up_after_s=10.0)
_TIMEOUT = httpx2.Timeout(30.0, read=300.0)
# Statuses of a server or gateway that is busy; others say that the request itself is wrong.
_TRANSIENT = frozenset({408, 409, 425, 429, 502, 503, 504})


class _Card(BaseModel):
    id: str
    root: str | None = None
    parent: str | None = None
    owned_by: str | None = None
    max_model_len: int | None = None


class _Listing(BaseModel):
    data: list[_Card]


class LoraServer:
    """The adapters of the server at `url`, which ends in /v1, on its base model `model`.

    `headers` authorize the calls; they appear in no message.

        server = LoraServer("http://127.0.0.1:8000/v1", "Qwen/Qwen3-8B", {})
        await server.load("agent-1", "/runs/r/adapters/agent-1")
    """

    def __init__(
        self,
        url: str,
        model: str,
        headers: Mapping[str, str],
        *,
        secrets: Secrets | None = None,
        policy: RetryPolicy = RETRIES,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._model = model
        self._secrets = secrets or Secrets(dict(headers))
        self._policy = policy
        self._sleep = sleep
        self._client = httpx2.AsyncClient(headers=dict(headers), timeout=_TIMEOUT)
        self._dialect: Dialect | None = None

    async def list_loaded(self) -> Sequence[LoadedAdapter]:
        """Every adapter the server lists. Raises `InvalidSettings` if it has another base model."""
        cards = await retry(self._list_cards, self._policy, sleep=self._sleep)
        return [LoadedAdapter(card.id, card.root or "") for card in cards if card.parent]

    async def load(self, name: str, path: str) -> None:
        """Load the folder `path` as `name`; returns once the server lists it.

        Raises `Unsupported` if the server refuses.
        """

        async def attempt() -> None:
            # An earlier attempt may have succeeded although its answer was lost.
            if await self._is_listed(name):
                return
            # The list decides, not the answer: vLLM refuses a name that is loaded already.
            refused = await self._post("load_lora_adapter", {"lora_name": name, "lora_path": path})
            if await self._is_listed(name):
                return
            if refused is None:
                raise Overloaded(f"adapter {name} is not listed although it was loaded")
            remedy = find_remedy(refused, path) or self._remedy
            raise Unsupported(f"the server refuses to load {path}: {refused}; {remedy}")

        await retry(attempt, self._policy, sleep=self._sleep)

    async def unload(self, name: str) -> None:
        """Unload `name`. Raises `BadRequest` if the server has it and refuses to unload it."""

        async def attempt() -> None:
            refused = await self._post("unload_lora_adapter", {"lora_name": name})
            if refused is not None and await self._is_listed(name):
                raise BadRequest(f"the server refuses to unload {name}: {refused}")

        await retry(attempt, self._policy, sleep=self._sleep)

    def model_name(self, name: str) -> str:
        """What a request names as its model. Call `list_loaded` first: it finds out the dialect."""
        return f"{self._model}:{name}" if self._dialect == "sglang" else name

    @property
    def scores_texts(self) -> bool:
        """See `AdapterServer.scores_texts`."""
        return self._dialect == "vllm"

    async def identify(self) -> ServerIdentity:
        """See `AdapterServer.identify`."""
        cards = await retry(self._list_cards, _BRIEF, sleep=self._sleep)
        # `_list_cards` has made sure that the base is there, and knows the dialect.
        base = next(card for card in cards if card.id == self._model and not card.parent)
        return await read_identity(
            self._send,
            self._url,
            self._model,
            self._dialect or "vllm",
            base.root,
            base.max_model_len,
        )

    async def preflight(self) -> Sequence[Finding]:
        """Whether the base model is there and runtime loading is enabled; changes nothing."""
        try:
            cards = await retry(self._list_cards, _BRIEF, sleep=self._sleep)
            loaded = [card for card in cards if card.parent]
            response = await self._send("GET", self._admin_url("load_lora_adapter"))
        except ProviderError as error:
            if isinstance(error, RetryableError):
                text = f"adapters at {self._url} cannot be checked now: {error}"
                return [Finding("warning", text, "start the server, or ask again when it is well")]
            return [Finding("error", f"adapters at {self._url}: {error}", self._remedy)]
        # The endpoint takes POST only: 404 means that it does not exist, and 405 that it does.
        if response.status_code == 404:
            text = f"{self._url} does not load adapters while it runs"
            return [Finding("error", text, self._remedy)]
        if (found := await self._probe_loading()) is not None:
            return [found]
        return [
            Finding("ok", f"{self._url} loads adapters while it runs ({len(loaded)} loaded now)")
        ]

    async def _probe_loading(self) -> Finding | None:
        """What is wrong if a server refuses any adapter, as one does that was started without LoRA.

        A folder that does not exist shows it: then a server with LoRA says that it is missing.
        """
        name = f"society-probe-{secrets.token_hex(4)}"
        body = {"lora_name": name, "lora_path": f"/no-such-folder/{name}"}
        try:
            refused = await self._post("load_lora_adapter", body)
        except RetryableError as error:
            text = f"whether {self._url} takes adapters cannot be tried now: {error}"
            return Finding("warning", text, "ask again when it is well")
        except ProviderError as error:
            return Finding("error", f"adapters at {self._url}: {error}", self._remedy)
        if refused is not None and "not enabled" in refused.lower():
            text = f"{self._url} was started without adapters: {refused}"
            return Finding("error", text, self._remedy)
        return None

    async def close(self) -> None:
        await self._client.aclose()

    async def _is_listed(self, name: str) -> bool:
        return any(card.id == name and card.parent for card in await self._list_cards())

    async def _list_cards(self) -> list[_Card]:
        response = await self._send("GET", f"{self._url}/models")
        self._require_success(response)
        try:
            cards = _Listing.model_validate_json(response.content).data
        except ValidationError:
            raise Overloaded(f"{self._url}/models answered with something else") from None
        bases = [card for card in cards if not card.parent]
        if self._model not in {card.id for card in bases}:
            names = ", ".join(card.id for card in bases) or "nothing"
            raise InvalidSettings(
                f"the server at {self._url} serves {names}, not {self._model!r}; correct the name "
                "behind the URL, or start the server with --served-model-name"
            )
        # SGLang's cards say "sglang" here, vLLM's "vllm".
        owners = {card.owned_by for card in bases}
        self._dialect = "sglang" if "sglang" in owners else "vllm"
        if self._dialect == "sglang" and ":" in self._model:
            raise InvalidSettings(
                f"SGLang reads {self._model!r} as a model and an adapter; start it with a "
                "--served-model-name without a colon"
            )
        return cards

    async def _post(self, action: Action, body: Mapping[str, str]) -> str | None:
        """None if the server complied, otherwise why it refuses."""
        response = await self._send("POST", self._admin_url(action), json=dict(body))
        if response.is_success:
            return None
        # vLLM answers 404 also for an adapter's folder that it cannot find, but then says so.
        if response.status_code in (404, 405) and not _has_reason(response):
            raise Unsupported(
                f"{self._url} does not load adapters while it runs (status "
                f"{response.status_code}); {self._remedy}"
            )
        # A refusal of the adapter itself is returned below; these are about server and key.
        if response.status_code in _TRANSIENT or response.status_code in (401, 403):
            self._require_success(response)
        if response.status_code >= 500 and not _has_reason(response):
            self._require_success(response)
        return self._format_refusal(response)

    async def _send(
        self, method: str, url: str, json: Mapping[str, object] | None = None
    ) -> httpx2.Response:
        try:
            return await self._client.request(method, url, json=json)
        except httpx2.TimeoutException:
            raise TimedOut(f"{self._url} did not answer in time") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            reason = self._secrets.scrub(str(error) or type(error).__name__)
            raise ConnectionLost(f"{self._url} cannot be reached ({reason})") from None
        except (httpx2.InvalidURL, httpx2.HTTPError) as error:
            reason = self._secrets.scrub(str(error))
            raise InvalidSettings(f"{self._url} cannot be asked ({reason})") from None

    def _require_success(self, response: httpx2.Response) -> None:
        if response.is_success:
            return
        error = classify_refusal(self._parse_refusal(response), self._model)
        if isinstance(error, (RetryableError, AuthenticationFailed)):
            raise error
        raise Unsupported(f"{self._url}: {error}")

    def _format_refusal(self, response: httpx2.Response) -> str:
        refusal = self._parse_refusal(response)
        return f"status {refusal.status}, {refusal.message}"

    def _parse_refusal(self, response: httpx2.Response) -> Refusal:
        body = _parse_body(response)
        return parse_refusal(response.status_code, body, response.headers, self._secrets)

    def _admin_url(self, action: Action) -> str:
        root = self._url.removesuffix("/v1") if self._dialect == "sglang" else self._url
        return f"{root}/{action}"

    @property
    def _remedy(self) -> str:
        if self._dialect == "sglang":
            return (
                f"start it as: python -m sglang.launch_server --model-path {self._model} "
                "--enable-lora --max-lora-rank R --lora-target-modules all --max-loaded-loras N, "
                f"{_PLACEHOLDERS}"
            )
        return (
            "start it as: VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve "
            f"{self._model} --enable-lora --max-loras N --max-cpu-loras 2N --max-lora-rank R "
            f"--generation-config vllm, "
            f"{_PLACEHOLDERS}"
        )


_PLACEHOLDERS = (
    "with N = 2 x society.agents and R = finetune.lora_rank or more; the server has to see the "
    "run's folder (set serving.path_map if it has another path there)"
)


def _has_reason(response: httpx2.Response) -> bool:
    """Whether the server itself says why, as opposed to a router or proxy without such a path."""
    body = _parse_body(response)
    if not isinstance(body, dict):
        return False
    error = body.get("error", body)
    return isinstance(error, str) or (
        isinstance(error, dict) and any(key in error for key in ("message", "error_message"))
    )


def _parse_body(response: httpx2.Response) -> object:
    try:
        body = json.loads(response.content)
    except (ValueError, UnicodeDecodeError):
        return response.text
    # SGLang has the message under a key of its own.
    if isinstance(body, dict) and isinstance(body.get("error_message"), str):
        return {**body, "message": body["error_message"]}
    return body
