"""Names and paths of saved weights at a server of Tinker's wire.

`tinker://RUN/sampler_weights/NAME` answers, `tinker://RUN/weights/NAME` can be trained on. Both are
saved under one name, made of the spec's digest and the step, so that each can be found.
"""

from __future__ import annotations

from providers.errors import ModelNotFound
from providers.types import FinetuneSpec

_SCHEME = "tinker://"
_SAMPLER, _STATE = "sampler_weights", "weights"


def name_state(spec: FinetuneSpec, step: int) -> str:
    """The name of what is saved after an optimizer step."""
    return f"{_prefix(spec)}{step}"


def read_step(spec: FinetuneSpec, name: str) -> int | None:
    """The step after which something of this name was saved; None for what is not of this spec."""
    step = name.rpartition("/")[2].removeprefix(_prefix(spec))
    return int(step) if step.isdecimal() else None


def sampler_path(path: str) -> str:
    """The path of the weights that answer, from any path of the same name.

    >>> sampler_path("tinker://run-1/final")
    'tinker://run-1/sampler_weights/final'
    """
    run, name = split_path(path)
    return f"{_SCHEME}{run}/{_SAMPLER}/{name}"


def state_path(path: str) -> str:
    """The path of the state that can be trained on, from any path of the same name."""
    run, name = split_path(path)
    return f"{_SCHEME}{run}/{_STATE}/{name}"


def split_path(path: str) -> tuple[str, str]:
    """Run and name of a path; raises `ModelNotFound` for what is none."""
    run, _, rest = path.removeprefix(_SCHEME).partition("/")
    name = rest.rpartition("/")[2]
    if not path.startswith(_SCHEME) or not run or not name:
        raise ModelNotFound(
            f"{path!r} is no path of saved weights, such as tinker://RUN/sampler_weights/NAME; was "
            "the model trained by another provider?"
        )
    return run, name


def _prefix(spec: FinetuneSpec) -> str:
    return f"society-{spec.digest[:16]}-"
