"""What to do if a model does not fit into memory: said before it is loaded, or after it failed."""

from __future__ import annotations

from providers.errors import ModelNotFound, OutOfMemory
from providers.local.machine import find_free_memory, find_free_swap
from providers.local.memory import find_remedies, make_plan, measure_model, write_size
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource, find_folder, read_config


def require_room(
    source: ModelSource, settings: LocalSettings, device_type: str, dtype_bytes: int
) -> None:
    """Raise `OutOfMemory` if the weights alone are more than memory and swap space have left.

    On a graphics card a load that is too large fails by itself. On a CPU the system would end
    some process, this one or another.
    """
    plan = settings.device_map
    on_disk = plan is not None and not (isinstance(plan, dict) and set(plan.values()) == {"cpu"})
    folder = find_folder(source)
    if device_type != "cpu" or on_disk or folder is None:
        return
    size = measure_model(folder, source.gguf_file, read_config(source))
    needed = size.count_weight_bytes(dtype_bytes, settings.quantization)
    free = find_free_memory(settings.model_copy(update={"device": "cpu", "device_map": None}))
    if free is not None and needed > free[0] + find_free_swap():
        raise OutOfMemory(
            f"the weights of {source.name!r} take {write_size(needed)}, and "
            f"{write_size(free[0])} of memory are free; "
            + find_remedies(size, make_plan(settings, dtype_bytes), free[0])
        )


def advise_after_failure(source: ModelSource, settings: LocalSettings, dtype_bytes: int) -> str:
    """What would fit, for the message of a load that ran out of memory."""
    try:
        folder, free = find_folder(source), find_free_memory(settings)
        if folder is None or free is None:
            return "take a smaller model, or set quantization = 'nf4' in [provider]"
        size = measure_model(folder, source.gguf_file, read_config(source))
    except ModelNotFound as error:
        return str(error)
    return find_remedies(size, make_plan(settings, dtype_bytes), free[0])
