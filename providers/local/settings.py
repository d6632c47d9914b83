"""The user's `[provider]` table for local models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from providers.errors import InvalidSettings
from providers.hyperparameters import (
    LORA_CHOICES,
    Hyperparameters,
    Objective,
    find_objective_conflicts,
)
from providers.local.placement import DeviceMap, parse_device_map, parse_max_memory
from providers.types import Capabilities, Sampling
from providers.validation import format_errors

CAPABILITIES = Capabilities(
    finetune=True,
    score=True,
    sampling_seed=True,
    repeatable=True,
    divergences=True,
    validation=True,
    weights=True,
    averages=True,
    objectives=frozenset(get_args(Objective)),
)


# The other parameters of transformers' `apply_chat_template`, and what it passes by itself.
_TAKEN_ARGUMENTS = frozenset(
    {
        *("messages", "conversation", "tools", "documents", "chat_template", "tokenize"),
        *("add_generation_prompt", "continue_final_message", "padding", "truncation", "max_length"),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
        *("sanitize_control_tokens", "bos_token", "eos_token", "pad_token", "unk_token"),
    }
)


class LocalSettings(BaseModel):
    """How a local model is loaded and run. Every default fits the machine.

    ```python
    LocalSettings.read({"device": "cpu", "threads": 4})
    ```
    """

    # A mistyped key must not be ignored: the run would differ from what the user meant.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    device: str = Field("auto", pattern=r"^(auto|cpu|mps|xpu|cuda(:\d+)?)$")
    """Where the model computes: `auto` (the first CUDA or MPS device, else the CPU), `cpu`, `mps`,
    `xpu`, `cuda` or `cuda:1`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the base's weights. `auto` is bfloat16 if the hardware computes in it (CUDA
    from compute capability 8.0, CPUs with avx512_bf16 or amx_bf16), else float32."""
    max_batch_size: int | None = Field(None, ge=1)
    """Rows that are decoded together. By default as many as fit; lowered if memory runs out."""
    max_batch_tokens: int | None = Field(None, ge=16)
    """Key-value slots that are held: rows times the longest prompt plus answer. Lower it if other
    programs need the memory."""
    attention: str = Field("auto", min_length=1)
    """`eager`, `sdpa`, `flex_attention`, `flash_attention_2` or any name that transformers knows.
    `auto` is sdpa where the model has it, else eager (also for soft caps, which sdpa would drop),
    and eager for single tokens on the CPU, where it is faster."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch, which chooses by default. Lower it if several runs share a machine."""
    gguf_file: str | None = Field(None, pattern=r"\.gguf$")
    """Name of the .gguf file inside a folder or hub repository that has several."""
    revision: str | None = Field(None, min_length=1)
    """Branch, tag or commit of a hub repository. Pin it for a result that others can repeat."""
    full_models: int = Field(3, ge=1)
    """Fully fine-tuned models that stay in memory beside the base. Raise it to the number of agents
    if memory allows; others are read from the disk again."""
    training_workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Processes that train at a time: the run's own, and others with a copy of the base each.
    `auto` is one per graphics card, or per `threads` cores if those are set, started only where
    that saves time and fits into memory. With a number, and without `threads`, workers on the CPU
    share the cores."""
    joint_training: Annotated[int, Field(ge=1)] | Literal["auto", "off"] = "auto"
    """Adapters that share their training passes over the base. `auto` is as many as fit, and on a
    CPU only with one thread, so that no bit depends on who is beside; `off` is none. Preferences,
    anchors, DoRA and quantized weights are trained one after the other."""
    template_date: date = date(2026, 1, 1)
    """The date for chat templates that write today's. It does not follow the calendar, so that the
    same experiment sends the same prompts on every day."""
    trust_remote_code: bool = False
    """Run the Python code that a model brings along. Read the code first, and name a commit as
    `revision`, so that it stays what you have read."""
    quantization: Literal["nf4", "int8"] | None = None
    """Keep the weights of the linear layers in 4 bits (`nf4`) or 8 bits (`int8`), if they do not
    fit otherwise. It needs the extra `quantized`."""
    device_map: Annotated[DeviceMap, BeforeValidator(parse_device_map)] | None = None
    """Spread one model over several devices: `auto`, `balanced`, `balanced_low_0`, `sequential`, or
    a device for each part of the model, such as `{"" = "cpu"}`; `disk` keeps a part on the disk."""
    max_memory: Annotated[dict[int | str, int], BeforeValidator(parse_max_memory)] | None = None
    """The most that each device may hold, for a `device_map` of one word:
    `{0 = "20GiB", cpu = "60GiB"}`."""
    offload_folder: str | None = Field(None, min_length=1)
    """Where the parts of a `device_map` that are on the disk lie."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Values for variables of the chat template: `{enable_thinking = false}` switches the thoughts
    of many reasoning models off."""
    reasoning_effort: str | None = Field(None, min_length=1)
    """The value of the chat template's variable of this name, such as `low`."""

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What the chat template is given besides the conversation."""
        effort = {"reasoning_effort": self.reasoning_effort} if self.reasoning_effort else {}
        return self.chat_template_kwargs | effort

    @field_validator("chat_template_kwargs")
    @classmethod
    def _check_arguments(cls, given: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(given.keys() & _TAKEN_ARGUMENTS):
            raise ValueError(
                f"{taken[0]!r} is set by this software itself; a template's own variables, such as "
                "enable_thinking, go here"
            )
        return given

    @model_validator(mode="after")
    def _check_effort(self) -> LocalSettings:
        if self.reasoning_effort and "reasoning_effort" in self.chat_template_kwargs:
            raise ValueError(
                "[provider] reasoning_effort is set twice, also in chat_template_kwargs; remove one"
            )
        return self

    @model_validator(mode="after")
    def _check_placement(self) -> LocalSettings:
        if self.device_map is None:
            for name in ("max_memory", "offload_folder"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"[provider] {name} has no effect without device_map; add "
                        "device_map = 'auto', or remove it"
                    )
        elif self.device != "auto":
            raise ValueError(
                f"[provider] device = {self.device!r} and device_map = {self.device_map!r} both "
                "say where the model lies; remove one of them"
            )
        elif self.training_workers not in ("auto", 1):
            raise ValueError(
                f"[provider] training_workers = {self.training_workers} does not go with "
                "device_map, which spreads one model over all devices; remove one of them"
            )
        elif self.max_memory is not None and not isinstance(self.device_map, str):
            raise ValueError(
                "[provider] max_memory has no effect with a device_map that names every device; "
                "remove it, or set device_map = 'auto'"
            )
        return self

    @classmethod
    def read(cls, settings: Mapping[str, object]) -> LocalSettings:
        """The validated settings; raises `InvalidSettings` naming key, value and remedy."""
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            section = "[provider] "
            faults = format_errors(error, _MESSAGES, known=cls.model_fields)
            lines = (line.removeprefix(section) for line in faults)
            raise InvalidSettings("; ".join(section + line for line in lines)) from None


def find_unsupported(hyperparameters: Hyperparameters) -> tuple[str, ...]:
    """The hyperparameters that training in this process cannot honor, each with its remedy."""
    problems = []
    if hyperparameters.learning_rate_multiplier is not None:
        problems.append(
            f"finetune.learning_rate_multiplier = {hyperparameters.learning_rate_multiplier}: "
            "local training has no rate of its own to multiply; remove it and set "
            "finetune.learning_rate"
        )
    # With a dropout of 1 every gradient is zero, so the adapter would stay as it began.
    if hyperparameters.method == "lora" and hyperparameters.lora_dropout >= 1:
        problems.append(
            f"finetune.lora_dropout = {hyperparameters.lora_dropout} drops everything, so that "
            "nothing can be trained; set less than 1"
        )
    problems += _find_lora_conflicts(hyperparameters)
    problems += find_objective_conflicts(hyperparameters)
    problems += [
        f"{name} = {value} must be above 0"
        for name in _POSITIVE
        if (value := getattr(hyperparameters, name)) is not None and not value > 0
    ]
    return tuple(problems)


def _find_lora_conflicts(hyperparameters: Hyperparameters) -> list[str]:
    """The settings of LoRA that do not go with others."""
    if hyperparameters.method == "full":
        return [
            f"finetune.{name} = {value!r} is a setting of LoRA; remove it, or set "
            "finetune.method = 'lora'"
            for name in LORA_CHOICES
            if (value := getattr(hyperparameters, name)) != getattr(_DEFAULTS, name)
        ]
    # PEFT's layers for fused experts add a product of factors to the weights themselves.
    return [
        f"finetune.{name} = {value!r} does not go with finetune.lora_experts = true; remove one"
        for name in ("lora_dropout", "use_dora")
        if hyperparameters.lora_experts and (value := getattr(hyperparameters, name))
    ]


_DEFAULTS = Hyperparameters()
_POSITIVE = (
    "epochs",
    "batch_size",
    "learning_rate",
    "max_example_tokens",
    "neftune_alpha",
    "beta",
)


def find_unsupported_sampling(sampling: Sampling) -> tuple[str, ...]:
    """The sampling settings that a model in this process cannot honor, each with its remedy."""
    return tuple(
        f"sampling.{name} = {value}: only servers have it; remove it, or set "
        "sampling.repetition_penalty"
        for name, value in sampling.list_extras().items()
        if name in ("frequency_penalty", "presence_penalty")
    )


_MESSAGES = {
    "extra_forbidden": "[provider] has no key '{key}'; {nearest}a local model knows: "
    + ", ".join(LocalSettings.model_fields),
    "other": "[provider] {key} = {value} is not usable: {problem}; change it or leave it out",
}
