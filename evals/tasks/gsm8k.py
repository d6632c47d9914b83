r"""GSM8K: grade school word problems (Cobbe et al. 2021, arXiv 2110.14168).

Source: https://huggingface.co/datasets/openai/gsm8k, config ``main``, 7,473 training and 1,319
test questions; the same rows as https://github.com/openai/grade-school-math. A row::

    {"question": "Natalia sold clips to 48 of her friends in April, and then she sold half as many
      clips in May. How many clips did Natalia sell altogether in April and May?",
     "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 =
      <<48+24=72>>72 clips altogether in April and May.\n#### 72"}
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from evals.answers import load_kind
from evals.answers.base import AnswerKind
from evals.tasks.dataset import DatasetTask, Entry, QuestionOrder
from evals.tasks.options import DataOptions, validate_options
from evals.tasks.sources import DataRow, HubDataset, choose_source
from evals.tasks.sources.hub import COMMIT

NAME = "gsm8k"
REPO = "openai/gsm8k"
REVISION = "740312add88f781978c0658806c59bc2815b9866"
PROMPT = "{question}\n\nSolve the problem step by step. {answer_form}"


class Gsm8kOptions(DataOptions):
    """The options of the task gsm8k."""

    revision: str = Field(default=REVISION, pattern=COMMIT)
    """The commit of the dataset on the hub."""


def create(options: Mapping[str, object]) -> DatasetTask:
    """The task with the user's options. Raises ValueError that names option, value and remedy."""
    asked = validate_options(Gsm8kOptions, options, NAME)
    hub = HubDataset(
        REPO,
        asked.revision,
        {
            "train": ("main/train-00000-of-00001.parquet",),
            "eval": ("main/test-00000-of-00001.parquet",),
        },
    )
    number = load_kind("number", {})
    return DatasetTask(
        NAME,
        choose_source(asked, hub),
        number,
        lambda row: _make_entry(row, number),
        prompt=PROMPT,
        order=QuestionOrder(asked.seed, asked.eval_share),
    )


def _make_entry(row: DataRow, number: AnswerKind) -> Entry:
    text, solution = row.text("question"), row.text("answer")
    _, mark, answer = solution.rpartition("####")
    if not mark:
        raise row.make_error(
            "the field 'answer' does not end with '#### ' and a number as in GSM8K; "
            "use the task file for data of another shape"
        )
    try:
        gold = number.read_gold(answer)
    except ValueError as error:
        raise row.make_error(f"the field 'answer' has no gold answer: {error}") from error
    return Entry(text, gold)
