"""Checks the options of a kind of answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Options(BaseModel):
    """The options of one kind; a subclass lists them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


AnyOptions = TypeVar("AnyOptions", bound=Options)


def checked(model: type[AnyOptions], kind: str, options: Mapping[str, object]) -> AnyOptions:
    """The options as `model`. Raises ValueError that names each wrong option and its value."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        allowed = ", ".join(model.model_fields) or "none"
        raise ValueError(
            "; ".join(
                f"unknown option {'.'.join(map(str, problem['loc']))!r} of the answer kind {kind}; "
                f"it has {allowed}"
                if problem["type"] == "extra_forbidden"
                else f"option {'.'.join(map(str, problem['loc']))!r} of the answer kind {kind} is "
                "missing; give it"
                if problem["type"] == "missing"
                else f"option {'.'.join(map(str, problem['loc']))!r} of the answer kind {kind}: "
                f"{problem['msg']}, got {problem['input']!r}"
                for problem in error.errors(include_url=False)
            )
        ) from error
