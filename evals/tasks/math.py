r"""MATH: competition problems in seven subjects and five levels (Hendrycks et al. 2021,
arXiv 2103.03874), and MATH-500, the 500 test problems of Lightman et al. 2023 (arXiv 2305.20050).

Source: https://huggingface.co/datasets/EleutherAI/hendrycks_math (7,500 training and 5,000 test
problems, one folder per subject) and https://huggingface.co/datasets/HuggingFaceH4/MATH-500 (whose
subject stands in ``subject`` and whose level is a number). A row::

    {"problem": "How many vertical asymptotes does the graph of $y=\\frac{2}{x^2+x-6}$ have?",
     "level": "Level 3", "type": "Algebra",
     "solution": "The denominator of the rational function factors into ... Therefore, the graph
      has $\\boxed{2}$ vertical asymptotes."}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field

from evals.answers import load_kind
from evals.answers.base import AnswerKind
from evals.tasks.dataset import DatasetTask, Entry, QuestionOrder, RowFilter
from evals.tasks.options import DataOptions, validate_options
from evals.tasks.sources import DataRow, HubDataset, PerSplit, RowSource, choose_source
from evals.tasks.sources.hub import COMMIT

NAME = "math"
REPO = "EleutherAI/hendrycks_math"
REVISION = "21a5633873b6a120296cce3e2df9d5550074f4a3"
REPO_500 = "HuggingFaceH4/MATH-500"
REVISION_500 = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
PROMPT = "{question}\n\nReason step by step. {answer_form}"

Subject = Literal[
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
]
SUBJECTS: tuple[Subject, ...] = get_args(Subject)
_BOX = re.compile(r"\\(?:boxed|fbox)")

Level = Annotated[int, Field(ge=1, le=5)]


class MathOptions(DataOptions):
    """The options of the task math."""

    subset: Literal["full", "math-500"] = "full"
    """What is evaluated on; training questions come from the full training set either way."""

    levels: tuple[Level, ...] | None = Field(default=None, min_length=1, strict=False)
    """Keep the questions of these levels, in training and evaluation; all if unset."""

    subjects: tuple[Subject, ...] | None = Field(default=None, min_length=1, strict=False)
    """Keep the questions of these subjects, in training and evaluation; all if unset."""

    revision: str = Field(default=REVISION, pattern=COMMIT)
    """The commit of the dataset on the hub."""

    math_500_revision: str = Field(default=REVISION_500, pattern=COMMIT)
    """The commit of MATH-500 on the hub."""


def create(options: Mapping[str, object]) -> DatasetTask:
    """The task with the user's options. Raises ValueError that names option, value and remedy."""
    asked = validate_options(MathOptions, options, NAME)
    mathematical = load_kind("math", {})
    return DatasetTask(
        NAME,
        choose_source(asked, _make_hub_source(asked)),
        mathematical,
        lambda row: _make_entry(row, mathematical),
        prompt=PROMPT,
        order=QuestionOrder(asked.seed, asked.eval_share),
        filters=_make_filters(asked),
    )


def _make_hub_source(asked: MathOptions) -> RowSource:
    subjects = dict.fromkeys(asked.subjects or SUBJECTS)
    full = HubDataset(
        REPO,
        asked.revision,
        {
            "train": tuple(f"{subject}/train-00000-of-00001.parquet" for subject in subjects),
            "eval": tuple(f"{subject}/test-00000-of-00001.parquet" for subject in subjects),
        },
    )
    if asked.subset == "full":
        return full
    return PerSplit(full, HubDataset(REPO_500, asked.math_500_revision, {"eval": ("test.jsonl",)}))


def _make_filters(asked: MathOptions) -> list[RowFilter]:
    filters = []
    if asked.levels is not None:
        filters.append(RowFilter("task.levels", frozenset(map(str, asked.levels)), _read_level))
    if asked.subjects is not None:
        filters.append(RowFilter("task.subjects", frozenset(asked.subjects), _read_subject))
    return filters


def _make_entry(row: DataRow, mathematical: AnswerKind) -> Entry:
    text, solution = row.text("problem"), row.text("solution")
    if not _BOX.search(solution):
        raise row.make_error(
            r"the field 'solution' has no \boxed{...} as in MATH; "
            "use the task file for data of another shape"
        )
    try:
        gold = mathematical.read_gold(solution)
    except ValueError as error:
        raise row.make_error(f"the field 'solution' has no gold answer: {error}") from error
    return Entry(text, gold, meta={"level": _read_level(row), "subject": _read_subject(row)})


def _read_level(row: DataRow) -> str:
    # Two training problems have "Level ?".
    return row.text("level").removeprefix("Level").strip()


def _read_subject(row: DataRow) -> str:
    named = row.text("type" if "type" in row.fields else "subject")
    return named.lower().replace("&", "and").replace(" ", "_")
