"""Where the parts of one model lie, as the user says it: device_map and max_memory.

The forms are those of accelerate (`infer_auto_device_map`).
"""

from __future__ import annotations

import re

_PLANS = ("auto", "balanced", "balanced_low_0", "sequential")
_DEVICE = re.compile(r"cpu|disk|mps|(cuda|xpu)(:\d+)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i?B)")
_UNITS = {
    prefix + form: base ** (power + 1)
    for power, prefix in enumerate("KMGT")
    for form, base in (("B", 1000), ("iB", 1024))
}

DeviceMap = str | dict[str, int | str]
"""One word that leaves the choice to accelerate, or the device of each part: {"": "cpu"}."""


def parse_device_map(value: object) -> DeviceMap:
    """A device map; raises ValueError with the remedy.

    ```python
    parse_device_map({"model.embed_tokens": 0, "model.layers": 1, "": "cpu"})
    ```
    """
    if isinstance(value, str):
        if value not in _PLANS:
            raise ValueError(
                f"there is no plan {value!r}; use {', '.join(map(repr, _PLANS))}, or a table with "
                "the device of each part of the model"
            )
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"{value!r} is neither a word nor a table; use 'auto', or name the device of each "
            "part of the model, such as {'' = 'cpu'}"
        )
    for part, device in value.items():
        number = isinstance(device, int) and not isinstance(device, bool) and device >= 0
        if not (number or (isinstance(device, str) and _DEVICE.fullmatch(device))):
            raise ValueError(
                f"part {part!r} cannot lie on {device!r}; use the number of a graphics card, "
                "'cpu' or 'disk'"
            )
    return {str(part): device for part, device in value.items()}


def parse_max_memory(value: object) -> dict[int | str, int]:
    """The most bytes that each device may hold; raises ValueError with the remedy.

    ```python
    parse_max_memory({"0": "20GiB", "cpu": "60GB"})  # {0: 21474836480, "cpu": 60000000000}
    ```
    """
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{value!r} is no table of sizes; write {{0 = '20GiB', cpu = '60GiB'}}")
    return {_parse_device(device): _parse_size(size) for device, size in value.items()}


def _parse_device(device: object) -> int | str:
    # Of an experiment file every key is text, also the number of a graphics card.
    if device == "cpu" or (isinstance(device, int) and device >= 0):
        return device
    if isinstance(device, str) and device.isdecimal():
        return int(device)
    raise ValueError(f"{device!r} is no device; use the number of a graphics card, or 'cpu'")


def _parse_size(size: object) -> int:
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    if isinstance(size, str) and (found := _SIZE.fullmatch(size)):
        return int(float(found[1]) * _UNITS[found[2]])
    raise ValueError(f"{size!r} is no size; write '20GiB', or the number of bytes")


def runs_on_cpu(device_map: DeviceMap) -> bool:
    """Whether a device map keeps every part from the graphics cards."""
    return isinstance(device_map, dict) and set(device_map.values()) <= {"cpu", "disk"}
