"""A task's own options: checked when the task is made, with errors that name option and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from providers.validation import format_errors


class TaskOptions(BaseModel):
    """What every task's options have in common: no unknown keys, no silent conversions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class DataOptions(TaskOptions):
    """Where the questions of a dataset task come from, and in which order they are asked."""

    path: str | None = Field(default=None, min_length=1)
    """One file, which is split between training and evaluation, or a folder with `train*` and
    `eval*` (else `test*`, else `validation*`) files."""

    train_path: str | None = Field(default=None, min_length=1)
    """The file with the training questions, in place of `path`."""

    eval_path: str | None = Field(default=None, min_length=1)
    """The file with the evaluation questions, in place of `path`."""

    eval_share: Annotated[float, Field(gt=0.0, lt=1.0, strict=False)] = 0.5
    """About the share of one `path` file that evaluation gets. Each question's own words decide, so
    that it stays where it is when the file grows; of 30 rows it may be a few more or fewer."""

    seed: int = Field(default=0, ge=0)
    """Decides the order of the questions."""

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
