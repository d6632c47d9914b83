"""An estimate on the screen, or as CSV or JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from evals.tasks.assumed import CHARACTERS
from providers.pricing import TokenPrice
from society.config.schema import Config
from society.costs import lengths
from society.costs.budget import round_usd
from society.costs.estimate import (
    CORRECTED,
    CRITIC_SHARE_LOW,
    LEARNABLE,
    LEARNABLE_LOW,
    CostEstimate,
    CostLine,
)
from society.costs.lengths import Range
from society.terminal.output import Screen
from society.terminal.table import Format, write_rows

COLUMNS = (
    "stage",
    "role",
    "model",
    "calls",
    "prompt tokens",
    "completion tokens",
    "trained tokens",
    "USD low",
    "USD expected",
    "USD high",
)


def show_estimate(estimate: CostEstimate, config: Config, form: Format, stream: TextIO) -> None:
    """Write all lines; as a table also the total, the prices and what was assumed.

    Token counts are the expected ones. An unknown price leaves the cells of its lines empty.
    """
    rows = [_row(line) for line in estimate.lines]
    if form == "table":
        rows = [round_cells(row) for row in (*rows, _sum_row(estimate))]
    write_rows(COLUMNS, rows, form, stream)
    if form == "table":
        console = Screen(stream, soft_wrap=True)
        for text in (
            *_format_outcome(estimate, config),
            *format_prices(estimate),
            *list_assumptions(config),
        ):
            console.print(text)


def show_assumed_tasks(tasks: Iterable[str], stream: TextIO) -> None:
    """Say which tasks' questions were only assumed, since their data are not on this machine."""
    if names := sorted(tasks):
        Screen(stream, soft_wrap=True).print(
            f"The questions of {', '.join(names)} are not on this machine, and nothing was "
            f"downloaded: each was taken to have {CHARACTERS} characters, so high is no bound. "
            "`society doctor` gets them; then ask again."
        )


def _row(line: CostLine) -> tuple[object, ...]:
    tokens = (line.calls, line.prompt, line.completion, line.trained)
    model = f"{line.model} (tuned)" if line.tuned else line.model
    stage = line.stage if line.arm is None else f"{line.stage}, {line.arm}"
    return (stage, line.role, model, *(round(r.expected) for r in tokens), *_usd(line.usd))


def round_cells(row: tuple[object, ...]) -> tuple[object, ...]:
    """A row of a table, whose last three cells are USD, or None, as it is shown."""
    usd = (round_usd(cell) if isinstance(cell, float) else cell for cell in row[-3:])
    return (*row[:-3], *usd)


def _sum_row(estimate: CostEstimate) -> tuple[object, ...]:
    sums = (
        lengths.sum_ranges(line.calls for line in estimate.lines),
        lengths.sum_ranges(line.prompt for line in estimate.lines),
        lengths.sum_ranges(line.completion for line in estimate.lines),
        lengths.sum_ranges(line.trained for line in estimate.lines),
    )
    return ("total", "", "", *(round(r.expected) for r in sums), *_usd(estimate.usd))


def _usd(usd: Range | None) -> tuple[float | None, ...]:
    return (None, None, None) if usd is None else (usd.low, usd.expected, usd.high)


def _format_outcome(estimate: CostEstimate, config: Config) -> list[str]:
    usd, cap = estimate.usd, config.budget_usd
    if usd is None:
        tables = ", ".join(f'[prices."{address}"]' for address in estimate.unpriced)
        return [
            "The cost is unknown: nobody has written down what these models cost. Add to the "
            f"experiment file, in USD per million tokens, {tables} with input_usd, output_usd, "
            "tuned_input_usd, tuned_output_usd and training_usd (0 for a server of your own)."
        ]
    lines = [
        f"Expected: {usd.expected:.2f} USD, between {usd.low:.2f} and at most {usd.high:.2f} USD."
    ]
    if cap is None:
        lines.append("No cap is set; budget_usd sets one.")
    elif cap >= usd.high:
        lines.append(f"budget_usd = {cap:g} is more than the run can spend.")
    elif cap >= usd.expected:
        lines.append(f"budget_usd = {cap:g} is above what is expected and below what is possible.")
    else:
        lines.append(f"budget_usd = {cap:g} will stop the run before its end.")
    return lines


def format_prices(estimate: CostEstimate) -> list[str]:
    """The prices an estimate rests on, one a line."""
    return [
        "Prices, USD per million tokens:",
        *(f"  {_format_price(price)}" for price in estimate.prices),
    ]


def _format_price(price: TokenPrice) -> str:
    figures = f"{price.input_usd:g} in, {price.output_usd:g} out"
    if price.training_usd is not None and not price.tuned:
        figures += f", {price.training_usd:g} training"
    read = "" if price.read_on is None else f", read on {price.read_on}"
    name = f"{price.model} (tuned)" if price.tuned else price.model
    return f"{name}: {figures} ({price.source}{read})"


def list_assumptions(config: Config) -> list[str]:
    """What the numbers rest on, one sentence a line."""
    sampling = config.sampling
    return [
        "Assumed:",
        f"  Text has {lengths.CHARACTERS_PER_TOKEN:g} characters per token "
        f"(low: {lengths.CHARACTERS_PER_TOKEN_LOW:g}; high: one token per byte).",
        f"  An answer takes {lengths.ANSWER_SHARE:.0%} of its limit ({sampling.max_tokens}, "
        f"summaries {sampling.summary_max_tokens}), at most {lengths.ANSWER_TOKENS} tokens "
        f"(low: {lengths.ANSWER_SHARE_LOW:.0%} of the limit; high: all of it), "
        "unless --answer-tokens and --summary-tokens say otherwise.",
        f"  {LEARNABLE:.0%} of the questions teach a generator (low: {LEARNABLE_LOW:.0%}; high: "
        f"all); {CORRECTED:.0%} are corrected in the debate, which with datasets.w decides what a "
        f"critic learns (low: {CRITIC_SHARE_LOW:.0%}; high: all).",
        "  Jobs are billed by all tokens of their examples times epochs.",
        "  Failed attempts are not billed; the vendor's cache lowers no price.",
        *(
            ["  Likelihoods (diversity) take two requests a text, for one token each."]
            if config.diversity.measures
            else []
        ),
        *(["  Evaluation costs what a batch costs."] if config.evaluation.batch else []),
    ]
