"""Addresses and the `[provider]` table for servers of Tinker's wire. It never contains a key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field

from providers.connection_settings import VARIABLE, ConnectionSettings, Count, parse_settings
from providers.errors import InvalidSettings
from providers.hyperparameters import Hyperparameters
from providers.local.settings import LocalSettings
from providers.server_address import ServerAddress, parse_server_address
from providers.types import Capabilities, Sampling

HOST_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"
KEY_VARIABLE = "TINKER_API_KEY"
_FORM = (
    "write it as tinker:MODEL for Thinking Machines or tinker+http://HOST:PORT:MODEL for a server "
    "of your own, e.g. tinker:Qwen/Qwen3-8B"
)
_KEY_REMEDY = "put the key into an environment variable and name that as api_key_env"
_TEMPLATE_KEYS = (
    *("revision", "trust_remote_code", "template_date"),
    *("chat_template_kwargs", "reasoning_effort"),
)
# These change how an adapter is made or trained; no server of the wire takes them.
_NOT_ON_THE_WIRE = (
    *("lora_dropout", "target_modules", "lora_experts", "use_rslora", "use_dora"),
    *("init_lora_weights", "neftune_alpha", "gradient_checkpointing"),
)


class TinkerSettings(ConnectionSettings):
    """How to reach a server, and what it does by itself."""

    timeout_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1800.0
    """Seconds for one call of the wire, such as a pass or a saved state. The first pass of a server
    may compile for minutes."""
    max_parallel_jobs: Count = 16
    """Adapters that are trained side by side."""
    poll_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 0.2
    """Seconds between two looks at a training in this process."""
    listing_lag_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 0.0
    """Not used: trainings are found in the run's own journal."""
    api_key_env: Annotated[str, Field(pattern=VARIABLE)] | None = None
    """The environment variable with the key; by default TINKER_API_KEY for Thinking Machines and no
    key for other servers. The SDK takes only keys that begin with `tml-`."""
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    """The model folder or hub name whose tokenizer and chat template write the prompts; by default
    the model's own name."""
    revision: Annotated[str, Field(min_length=1)] | None = None
    """Branch, tag or commit of the tokenizer's hub repository."""
    trust_remote_code: bool = False
    """Run the Python code that a tokenizer brings along. Read the code first."""
    template_date: date = LocalSettings.model_fields["template_date"].default
    """The date for chat templates that write today's; it does not follow the calendar."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Values for variables of the chat template, such as `{enable_thinking = false}`."""
    reasoning_effort: Annotated[str, Field(min_length=1)] | None = None
    """The value of the chat template's variable of this name, such as `low`."""
    lora_alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 32
    """The alpha that the server gives every adapter, since the wire has none."""
    clips_gradients: bool | None = None
    """Whether the server takes `finetune.max_grad_norm`; by default Thinking Machines does, other
    servers do not."""
    loss_reduction: Literal["sum", "mean"] = "sum"
    """`sum` if the server sums the loss of all tokens, as Tinker does; `mean` if it divides each
    example's loss by its weights, as SkyRL's JAX backend does. Either way a step minimizes the mean
    over its tokens. With `mean` an adapter's slot is also freed of gradients that were left there,
    which that backend keeps."""
    save_every: Count = 20
    """Optimizer steps between two saved states; after a kill at most so many are repeated."""
    download: bool = False
    """Fetch every trained adapter into the run's folder at the end of its training."""

    @classmethod
    def parse(cls, settings: Mapping[str, object]) -> TinkerSettings:
        """The validated settings; raises `InvalidSettings` with the key and the remedy."""
        parsed = parse_settings(cls, settings, _KEY_REMEDY)
        # The messages about templates are those of local models.
        LocalSettings.read({n: v for n, v in settings.items() if n in _TEMPLATE_KEYS})
        return parsed

    def key_variable(self, address: ServerAddress) -> str:
        """The environment variable with the key; "" for none."""
        if self.api_key_env is not None:
            return self.api_key_env
        return KEY_VARIABLE if is_hosted(address) else ""

    def takes_clipping(self, address: ServerAddress) -> bool:
        """Whether the server clips gradients."""
        return is_hosted(address) if self.clips_gradients is None else self.clips_gradients

    def to_capabilities(self) -> Capabilities:
        """What the provider can do with these settings."""
        return Capabilities(
            finetune=True,
            score=True,
            # The server draws; it takes a seed, and promises nothing for it.
            sampling_seed=False,
            repeatable=False,
            max_parallel_jobs=self.max_parallel_jobs,
            poll_s=self.poll_s,
            validation=True,
            weights=True,
        )

    def to_template_settings(self) -> LocalSettings:
        """How the tokenizer is opened."""
        return LocalSettings(**{name: getattr(self, name) for name in _TEMPLATE_KEYS})


def parse_address(target: str) -> ServerAddress:
    """Server and model of an address without its scheme; raises `InvalidSettings`.

    >>> parse_address("+http://127.0.0.1:8000:Qwen/Qwen3-8B").model
    'Qwen/Qwen3-8B'
    """
    if target.startswith("+"):
        return parse_server_address("tinker", target.removeprefix("+"), _FORM)
    if not target.strip() or "://" in target:
        raise InvalidSettings(f"model address 'tinker:{target}' names no model; {_FORM}")
    return ServerAddress(HOST_URL, target)


def is_hosted(address: ServerAddress) -> bool:
    """Whether Thinking Machines runs the server."""
    return address.host == "thinkingmachines.dev" or address.host.endswith(".thinkingmachines.dev")


def find_unsupported(
    how: Hyperparameters, settings: TinkerSettings, address: ServerAddress
) -> list[str]:
    """What the wire cannot honor of `how`, each with its remedy."""
    server, defaults = address.host, Hyperparameters()
    problems = [
        f"finetune.{name} = {getattr(how, name)!r}: {server} decides this itself; remove it"
        for name in _NOT_ON_THE_WIRE
        if getattr(how, name) != getattr(defaults, name)
    ]
    if how.method != "lora":
        problems.append(
            f"finetune.method = {how.method!r}: {server} trains LoRA adapters only; set it to "
            "'lora', or train on this machine with local:"
        )
    if how.lora_alpha != settings.lora_alpha:
        problems.append(
            f"finetune.lora_alpha = {how.lora_alpha}: adapters of {server} have alpha "
            f"{settings.lora_alpha:g}; set finetune.lora_alpha = {settings.lora_alpha:g}, or tell "
            "the server's own value as provider.lora_alpha"
        )
    if how.learning_rate_multiplier is not None:
        problems.append(
            "finetune.learning_rate_multiplier: there is no rate of the vendor's to multiply; set "
            "finetune.learning_rate"
        )
    if how.max_grad_norm and not settings.takes_clipping(address):
        problems.append(
            f"finetune.max_grad_norm = {how.max_grad_norm:g}: {server} is not known to clip "
            "gradients; set finetune.max_grad_norm = 0, or provider.clips_gradients = true if it "
            "does"
        )
    if how.objective != "sft":
        problems.append(
            f"finetune.objective = {how.objective!r}: not trained through this wire; set it to "
            "'sft', or train on this machine with local:"
        )
    if how.anchor:
        problems.append(
            f"finetune.anchor = {how.anchor:g} needs whole distributions, and {server} gives the "
            "log-probability of one token; set it to 0, or train on this machine with local:"
        )
    return problems


def find_unsupported_sampling(sampling: Sampling, server: str) -> list[str]:
    """What of `[sampling]` the wire does not take, each with its remedy."""
    return [
        f"sampling.{name} = {value!r}: {server} does not take it; remove it"
        for name, value in sampling.list_extras().items()
        if name not in ("top_k", "stop")
    ]
