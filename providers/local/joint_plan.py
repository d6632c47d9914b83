"""Which adapters are trained in passes that they share, and how many at a time.

Imports no torch, so that `society doctor` can say it before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from providers.errors import ProviderError
from providers.hyperparameters import Hyperparameters
from providers.local.machine import find_free_memory
from providers.local.memory import ModelSize
from providers.local.settings import LocalSettings
from providers.types import FinetuneSpec

# More of them do not make a pass cheaper for each.
_MOST = 16
# What the factors, gradients and moments of all may take of the free memory: passes need the rest.
_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class JointPlan:
    """How many adapters share their passes at most, and why; 1 is none with another.

    ```python
    plan_joint(LocalSettings(joint_training=6), Hyperparameters(), None, None).adapters  # 6
    ```
    """

    adapters: int
    reason: str

    def __str__(self) -> str:
        if self.adapters == 1:
            return f"each adapter is trained in passes of its own ({self.reason})"
        return f"up to {self.adapters} adapters share their training passes ({self.reason})"


def find_joint_faults(settings: LocalSettings, how: Hyperparameters, *, on_cpu: bool) -> list[str]:
    """Why a training with these settings takes passes of its own; nothing if it may share them."""
    faults = {
        "[provider] joint_training = 'off'": settings.joint_training == "off",
        # Several threads cut a product by its size, so that bits would depend on who is beside.
        "joint_training = 'auto', on a CPU with more than one thread": (
            settings.joint_training == "auto" and on_cpu and settings.threads != 1
        ),
        f"[provider] quantization = {settings.quantization!r}": settings.quantization is not None,
        "[provider] device_map": settings.device_map is not None,
        f"finetune.method = {how.method!r}": how.method != "lora",
        # Preferences compare two answers, and an anchor two models, in every piece.
        f"finetune.objective = {how.objective!r}": how.objective != "sft",
        f"finetune.anchor = {how.anchor}": bool(how.anchor),
        "finetune.use_dora = true": how.use_dora,
        "finetune.lora_experts = true": how.lora_experts,
        # Its size depends on how many tokens a pass has.
        f"finetune.neftune_alpha = {how.neftune_alpha}": how.neftune_alpha is not None,
        "finetune.gradient_checkpointing = true": how.gradient_checkpointing is True,
        # A graphics card draws other numbers for rows of another adapter.
        f"finetune.lora_dropout = {how.lora_dropout}, on a graphics card": (
            bool(how.lora_dropout) and not on_cpu
        ),
    }
    return [fault for fault, is_there in faults.items() if is_there]


def plan_joint(
    settings: LocalSettings,
    how: Hyperparameters,
    size: ModelSize | None,
    free: int | None,
    *,
    on_cpu: bool = True,
) -> JointPlan:
    """How many adapters share their passes; `size` and `free` bytes are None if unknown."""
    if faults := find_joint_faults(settings, how, on_cpu=on_cpu):
        return JointPlan(1, faults[0])
    if settings.joint_training not in ("auto", "off"):
        wanted = int(settings.joint_training)
        return JointPlan(wanted, f"joint_training = {wanted}")
    if size is None or free is None:
        return JointPlan(_MOST, "as many as fit")
    each = max(1, size.estimate_training(how))
    adapters = max(1, min(_MOST, int(_SHARE * free / each)))
    return JointPlan(adapters, "by the memory that is free" if adapters < _MOST else "they fit")


class JointLimits:
    """How many jobs of one provider share their passes, found out once for each kind of job.

    ```python
    limits = JointLimits(settings, on_cpu=True)
    limits.count_adapters(spec, lambda: measure_model(folder, None, config))
    ```
    """

    def __init__(self, settings: LocalSettings, *, on_cpu: bool) -> None:
        self._settings = settings
        self._on_cpu = on_cpu
        self._plans: dict[Hyperparameters, JointPlan] = {}

    def may_share(self, spec: FinetuneSpec) -> bool:
        """Whether the job can be trained in passes with others at all."""
        how = spec.hyperparameters
        return not find_joint_faults(self._settings, how, on_cpu=self._on_cpu)

    def count_adapters(self, spec: FinetuneSpec, measure: Callable[[], ModelSize]) -> int:
        """How many jobs like this one at a time; `measure` tells the base's size if it counts."""
        how = spec.hyperparameters
        if how not in self._plans:
            size = free = None
            if self._settings.joint_training == "auto":
                try:
                    size, found = measure(), find_free_memory(self._settings)
                except ProviderError:
                    found = None
                free = None if found is None else found[0]
            self._plans[how] = plan_joint(self._settings, how, size, free, on_cpu=self._on_cpu)
        return self._plans[how].adapters
