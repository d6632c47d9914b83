"""Files that an experiment names: selections of training data, and prompts.

An experiment file gives the path alone, and `society.config.load` reads the file. A run stores
name, text and SHA-256, so that it does not need the file any more.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from finetune.selection import TrainingSelection
from society.config.values import Section
from society.prompts.templates import PLACES, PromptName, check_prompt


def write_path_schema(schema: dict[str, Any]) -> None:
    """Replace a file's JSON Schema by that of its path, which is what a user writes."""
    schema.clear()
    schema |= {"type": "string", "format": "path"}


class SelectionFile(BaseModel):
    """A .sql file: its name, text and SHA-256."""

    # A user gives the path alone.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_extra=write_path_schema
    )
    file: str
    text: str
    sha256: str

    @model_validator(mode="after")
    def _is_whole(self) -> SelectionFile:
        if self.selection.sha256 != self.sha256:
            raise ValueError(
                f"the text of {self.file!r} does not have the SHA-256 beside it; give the path of "
                "the file instead of both"
            )
        return self

    @property
    def selection(self) -> TrainingSelection:
        """The selection in the terms of `finetune`."""
        return TrainingSelection(self.file, self.text)


class PromptFile(BaseModel):
    """A file with a prompt's text: its name, text and SHA-256."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_extra=write_path_schema
    )
    file: str
    text: str
    sha256: str

    @model_validator(mode="after")
    def _is_whole(self) -> PromptFile:
        if hash_text(self.text) != self.sha256:
            raise ValueError(
                f"the text of {self.file!r} does not have the SHA-256 beside it; give the path of "
                "the file instead of both"
            )
        return self


def hash_text(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


class PromptsSection(Section):
    """Files with the user's own prompts in place of the packaged ones; see `society.prompts`."""

    task: PromptFile | None = None
    """Round 1, with the places {question} and {answer_form}."""
    quoted: PromptFile | None = None
    """Later rounds with `society.others = "quoted"`: {solutions} and {answer_form}."""
    summarized: PromptFile | None = None
    """Later rounds with `society.others = "summarized"`: {summary} and {answer_form}."""
    summarize: PromptFile | None = None
    """What the summarizer is asked: {solutions}."""

    @model_validator(mode="after")
    def _have_their_places(self) -> PromptsSection:
        for name, file in self.files.items():
            try:
                check_prompt(name, file.text)
            except ValueError as error:
                raise ValueError(f"prompts.{name}: {file.file!r}: {error}") from error
        return self

    @property
    def files(self) -> dict[PromptName, PromptFile]:
        """The files that are given, by the prompt that each of them replaces."""
        return {name: file for name in PLACES if (file := getattr(self, name)) is not None}
