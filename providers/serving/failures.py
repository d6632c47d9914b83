"""Why a server did not come up or died, by what it has printed last."""

from __future__ import annotations

import re

# Each pattern with what the user can do; the first that occurs counts.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"address already in use|cannot assign requested address",
        "another program took its port; leave serving.port out, or set another",
    ),
    (
        r"out of memory|OutOfMemory|No available memory for the cache|"
        r"less than desired GPU memory utilization|KV cache is needed|bad_alloc|Cannot allocate",
        "it ran out of memory; free the device, set serving.context_tokens to less, or add "
        '"--gpu-memory-utilization=0.8" (vLLM) or "--mem-fraction-static=0.8" (SGLang) to '
        "serving.arguments",
    ),
    (
        r"unrecognized arguments|invalid choice|no such option",
        "its version does not know an argument; install the version that docs/serving.md names, or "
        "correct serving.arguments",
    ),
    (
        r"No module named|ImportError|cannot open shared object|nms does not exist",
        "its environment is not whole; start the command of the log by hand there until it works",
    ),
    (
        r"not supported|Unsupported|does not support",
        "it does not support this model or setting; leave [serving] out, or correct it",
    ),
    (
        r"Repository Not Found|LocalEntryNotFound|couldn't connect to|gated repo",
        "it cannot fetch the model; fetch it first, or name a folder as model",
    ),
)
_KILLED = -9


def explain_failure(log: str, status: int | None) -> str:
    """What to do about a server that ended with `status` and this log, in one clause."""
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, log, re.IGNORECASE):
            return remedy
    if status in (_KILLED, 128 - _KILLED):
        return "something killed it, which a system does that has no memory left"
    return "its log says why"


def is_port_taken(log: str) -> bool:
    """Whether the server ended because its port was another program's."""
    return re.search(_REMEDIES[0][0], log, re.IGNORECASE) is not None
