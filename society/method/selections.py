"""A selection of training rows in a file of the user's: read once, kept with the run."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from evals.tasks.sources.text import read_text
from finetune.custom import Selection


class SelectionFile(BaseModel):
    """A .sql file: its name, text and SHA-256. In an experiment file its path alone is written.

    What a run stores is whole and does not need the file any more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    file: str
    text: str
    sha256: str

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        try:
            text = read_text(Path(given)).replace("\r\n", "\n")
        except ValueError as error:
            raise ValueError(f"cannot read {given!r}: {error}") from error
        name = Path(given).name
        return {"file": name, "text": text, "sha256": Selection(name, text).sha256}

    @model_validator(mode="after")
    def _is_whole(self) -> SelectionFile:
        if self.selection.sha256 != self.sha256:
            raise ValueError(
                f"the text of {self.file!r} does not have the SHA-256 beside it; give the path of "
                "the file instead of both"
            )
        return self

    @property
    def selection(self) -> Selection:
        """The same for whoever makes datasets."""
        return Selection(self.file, self.text)


def difference(stored: str, now: str) -> str:
    """What has changed between two texts, line by line."""
    lines = difflib.unified_diff(
        stored.splitlines(), now.splitlines(), "stored", "now", n=1, lineterm=""
    )
    return "\n".join(f"    {line}" for line in lines)
