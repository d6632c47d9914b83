"""The command line of each engine: the experiment's adapters, and answers that equal our own.

From the engines' documentation and sources, and from trying vLLM 0.32 (docs/serving.md):

    https://docs.vllm.ai/en/latest/cli/serve/
    https://docs.vllm.ai/en/latest/features/lora/
    https://docs.sglang.io/docs/advanced_features/lora.md
"""

from __future__ import annotations

from dataclasses import dataclass

from providers.base import BaseWeights
from providers.errors import InvalidSettings
from providers.serving.settings import AdapterNeed, EngineSettings

HERE = "127.0.0.1"
"""Where a server on this machine listens: nobody else reaches it."""
SHUTDOWN_S = 10
"""How long the engine lets requests in flight finish once it is asked to end."""
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_VLLM_RANK_SOURCE = "https://docs.vllm.ai/en/latest/api/vllm/config/lora/"
_LIVES = 4
"""On a CPU, how many times its adapters a server can load before it is started anew."""


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """Everything about the servers of a run but port, key and graphics cards.

    `on_cpu`: the engine computes without a graphics card. `version`: of the engine, "" for one in a
    container that has not been asked yet.
    """

    settings: EngineSettings
    weights: BaseWeights
    need: AdapterNeed
    on_cpu: bool
    version: str

    @property
    def served_name(self) -> str:
        """The base model's name in requests."""
        # SGLang takes what follows a colon for an adapter's name.
        return self.weights.name.rstrip("/").rpartition("/")[2].replace(":", "-") or "base"

    def name_address(self, url: str) -> str:
        """The base model at a server of this plan, as an experiment would name it."""
        return f"openai+{url}/v1:{self.served_name}"

    @property
    def slots(self) -> int | None:
        """How many adapters may ever be loaded into one server; None for any number.

        On a CPU vLLM does not free the slot of an adapter that is unloaded, and once none is free,
        it answers requests for the base that share a batch with others by the last slot's adapter.
        """
        if not self.on_cpu or not self.need.count:
            return None
        return _LIVES * self.need.count

    def describe(self) -> dict[str, object]:
        """What decides this server's answers, to compare with a later start of the run."""
        return {
            "engine": self.settings.engine,
            "version": self.version,
            "dtype": self.weights.dtype,
            "arguments": " ".join(self._build_answer_arguments()),
        }

    def build_arguments(self, port: int, host: str = HERE) -> list[str]:
        """The whole command but for the key, which travels in the environment."""
        reached = ["--host", host, "--port", str(port)]
        if self.settings.engine == "vllm":
            model = [self.weights.name, *reached, "--disable-uvicorn-access-log"]
            # Without it a server that is asked to end waits for its requests for ever.
            model += ["--shutdown-timeout", str(SHUTDOWN_S)]
        else:
            model = ["--model-path", self.weights.name, *reached]
        named = ["--served-model-name", self.served_name]
        return [*self.settings.prefix, *model, *named, *self._build_answer_arguments()]

    def _build_answer_arguments(self) -> list[str]:
        build = _build_vllm if self.settings.engine == "vllm" else _build_sglang
        return [*build(self), *self.settings.arguments]


def _build_vllm(plan: ServerPlan) -> list[str]:
    # Otherwise the server applies the model's own top_k and repetition penalty to every request.
    found = ["--dtype", plan.weights.dtype, "--generation-config", "vllm"]
    if plan.weights.revision is not None:
        found += ["--revision", plan.weights.revision]
    if plan.settings.context_tokens is not None:
        found += ["--max-model-len", str(plan.settings.context_tokens)]
    if plan.settings.gpus_per_server > 1:
        found += ["--tensor-parallel-size", str(plan.settings.gpus_per_server)]
    if plan.on_cpu:
        # On a CPU a request with a seed kills an engine that cuts prompts into chunks.
        found.append("--no-enable-chunked-prefill")
    if not plan.need.count:
        return found
    # One more than the slots that are used: see `ServerPlan.slots`.
    at_once = plan.need.count if plan.slots is None else plan.slots + 1
    kept = max(2 * plan.need.count, at_once)
    return [
        *found,
        *("--enable-lora", "--max-loras", str(at_once), "--max-cpu-loras", str(kept)),
        *("--max-lora-rank", str(round_rank(plan.need.rank))),
    ]


def _build_sglang(plan: ServerPlan) -> list[str]:
    # Its defaults for sampling would come from the model's generation_config.json, as vLLM's.
    found = ["--dtype", plan.weights.dtype, "--sampling-defaults", "openai"]
    if plan.weights.revision is not None:
        found += ["--revision", plan.weights.revision]
    if plan.settings.context_tokens is not None:
        found += ["--context-length", str(plan.settings.context_tokens)]
    if plan.settings.gpus_per_server > 1:
        found += ["--tp-size", str(plan.settings.gpus_per_server)]
    if not plan.need.count:
        return found
    return [
        *found,
        *("--enable-lora", "--max-lora-rank", str(plan.need.rank)),
        *("--lora-target-modules", "all", "--max-loras-per-batch", str(plan.need.count)),
        *("--max-loaded-loras", str(2 * plan.need.count)),
    ]


def round_rank(rank: int) -> int:
    """The next rank that vLLM reserves memory for. Raises `InvalidSettings` above its largest.

    >>> round_rank(24)
    32
    """
    for known in _VLLM_RANKS:
        if rank <= known:
            return known
    raise InvalidSettings(
        f"finetune.lora_rank = {rank}: vLLM takes {_VLLM_RANKS[-1]} at most ({_VLLM_RANK_SOURCE}); "
        "set a smaller rank, or answer without vLLM"
    )
