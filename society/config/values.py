"""What the sections of an experiment file have in common: strict values, and the usual bounds."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)


class Section(BaseModel):
    """A table of the file.

    `added` names the keys that are younger than stored runs. At its default such a key is left out
    of the text, so that a run stored before the key existed compares as equal: it stays finished,
    and its seeds stay one experiment. Of these, keys in `stated` are kept once the file has them,
    since their default means something else where nobody has asked for it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )
    added: ClassVar[frozenset[str]] = frozenset()
    stated: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _leave_out_added(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        unset = {
            name
            for name in self.added - (self.stated & self.model_fields_set)
            if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return {key: value for key, value in found.items() if key not in unset}


MOST_ITERATIONS = 2**31 - 1

# strict: "3" is no number and true is no 1, since TOML has types of its own. Floats are lenient, so
# that `w = 1` may be written for 1.0, and so are lists, which TOML has in place of tuples.
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0.0, le=1.0, strict=False)]
Part = Annotated[float, Field(gt=0.0, le=1.0, strict=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False, strict=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False, strict=False)]
LoraNames = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, strict=False)
]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]
# The bounds of OpenAI's API and vLLM.
Penalty = Annotated[float, Field(ge=-2.0, le=2.0, strict=False)]
StopStrings = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
TopP = Annotated[float, Field(gt=0.0, le=1.0, strict=False)]
Words = Annotated[str, Field(pattern=r"\S")]


def _check_labels(labels: str) -> str:
    if not re.fullmatch(r"final|round1|average|gold|lagged:[1-9][0-9]{0,8}", labels):
        raise ValueError(
            f"{labels!r} is no source of labels; there are 'final', 'round1', 'lagged:1' (or "
            "another number of iterations) and 'average'"
        )
    return labels


LabelSource = Annotated[str, AfterValidator(_check_labels)]
"""Where training labels come from; see `store.records.Labels`."""
