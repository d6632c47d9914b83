"""A task's own options: checked when the task is made, with errors that name option and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from providers.validation import format_errors


class TaskOptions(BaseModel):
    """What every task's options have in common: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataOptions(TaskOptions):
    """Where the questions of a dataset task come from, and in which order they are asked.

    `path` is one file, whose questions are shared out between training and evaluation
    (`eval_share`), or a folder with a file per split; `train_path` and `eval_path` name one file
    each. The share a question falls into never depends on `seed`, which decides the order.
    """

    path: str | None = Field(default=None, min_length=1)
    train_path: str | None = Field(default=None, min_length=1)
    eval_path: str | None = Field(default=None, min_length=1)
    eval_share: Annotated[float, Field(gt=0.0, lt=1.0, strict=False)] = 0.5
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _either_or(self) -> DataOptions:
        if self.path is not None and (self.train_path is not None or self.eval_path is not None):
            raise ValueError(
                "task.path holds both splits; leave it out, or leave out "
                "task.train_path and task.eval_path"
            )
        return self

    def local(self, name: str) -> Path | None:
        """The option `name` as a path, `~` expanded."""
        value: str | None = getattr(self, name)
        return None if value is None else Path(value).expanduser()


AnyTaskOptions = TypeVar("AnyTaskOptions", bound=BaseModel)


def validate_options(
    model: type[AnyTaskOptions], options: Mapping[str, object], task: str
) -> AnyTaskOptions:
    """The options of the task `task`, checked.

    Raises ValueError that names every wrong option, its value and the remedy.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        messages = {
            "extra_forbidden": f"{{key}}: unknown option of the task {task}; {{nearest}}it has "
            f"{', '.join(model.model_fields)}",
            "missing": f"{{key}}: the task {task} needs this option",
        }
        raise ValueError(
            "; ".join(format_errors(error, messages, "task.", model.model_fields))
        ) from error
