"""A cost estimate as a table for people, or as CSV or JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from evals.tasks.placeholders import CHARACTERS
from providers.pricing import TokenPrice
from society.config.schema import Config
from society.costs import lengths
from society.costs.budget import round_usd
from society.costs.estimate import CostEstimate, CostLine
from society.costs.examples import CORRECTED, CRITIC_SHARE_LOW, LEARNABLE, LEARNABLE_LOW
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
    """Write all lines; a table also has the total, the prices and the assumptions.

    Token counts are the expected ones. A line with an unknown price has empty USD cells.
    """
    rows = [_row(line) for line in estimate.lines]
    # CSV and JSON get exact numbers and no total, so that programs can add up themselves.
    if form == "table":
        rows = [round_cells(row) for row in (*rows, _sum_row(estimate))]
    write_rows(COLUMNS, rows, form, stream)
    if form == "table":
        console = Screen(stream, soft_wrap=True)
        for text in (
            *_format_outcome(estimate, config),
            *map(str, estimate.deployments),
            *map(str, estimate.storage),
            *format_prices(estimate),
            *list_assumptions(config),
        ):
            console.print(text)


def show_assumed_tasks(tasks: Iterable[str], stream: TextIO) -> None:
    """Name the tasks whose questions were assumed, since their data are not on this machine."""
    if names := sorted(tasks):
        Screen(stream, soft_wrap=True).print(
            f"The questions of {', '.join(names)} are not on this machine, and nothing was "
            f"downloaded: the estimate assumes {CHARACTERS} characters for each, so the high "
            "number is not a bound. `society doctor` downloads them; then repeat this command."
        )


def _row(line: CostLine) -> tuple[object, ...]:
    tokens = (line.calls, line.prompt, line.completion, line.trained)
    model = f"{line.model} (tuned)" if line.tuned else line.model
    stage = line.stage if line.arm is None else f"{line.stage}, {line.arm}"
    return (stage, line.role, model, *(round(r.expected) for r in tokens), *_usd(line.usd))


def round_cells(row: tuple[object, ...]) -> tuple[object, ...]:
    """A row with its last three cells, USD or None, rounded for a table."""
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
        tables = ", ".join(f'[prices."{address}"]' for address in estimate.addresses_without_price)
        return [
            "The cost is unknown, since these models have no known price. Add to the experiment "
            f"file, in USD per million tokens, {tables} with input_usd, output_usd, "
            "tuned_input_usd, tuned_output_usd and training_usd (0 for a server of your own)."
            + ("" if cap is None else f" Until then a run refuses budget_usd = {cap:g}.")
        ]
    lines = [
        f"Expected: {usd.expected:.2f} USD, between {usd.low:.2f} and at most {usd.high:.2f} USD."
    ]
    if cap is None:
        lines.append("No cap is set; budget_usd sets one.")
    elif cap >= usd.high:
        lines.append(f"budget_usd = {cap:g} is more than the run can spend.")
    elif cap >= usd.expected:
        lines.append(f"budget_usd = {cap:g} is above the expected cost and below the highest.")
    else:
        lines.append(f"budget_usd = {cap:g} will stop the run before its end.")
    return lines


def format_prices(estimate: CostEstimate) -> list[str]:
    """The prices that an estimate uses, one per line."""
    return [
        "Prices, USD per million tokens:",
        *(f"  {_format_price(price)}" for price in estimate.prices),
    ]


def _format_price(price: TokenPrice) -> str:
    figures = f"{price.input_usd:g} in, {price.output_usd:g} out"
    if price.training_usd is not None and not price.tuned:
        figures += f", {price.training_usd:g} training"
    # The date shows how old a packaged price is.
    read = "" if price.read_on is None else f", read on {price.read_on}"
    name = f"{price.model} (tuned)" if price.tuned else price.model
    return f"{name}: {figures} ({price.source}{read})"


def list_assumptions(config: Config) -> list[str]:
    """The assumptions behind the numbers, one sentence per line."""
    sampling = config.sampling
    return [
        "Assumed:",
        f"  Text has {lengths.CHARACTERS_PER_TOKEN:g} characters per token "
        f"(low: {lengths.CHARACTERS_PER_TOKEN_LOW:g}; high: one token per byte).",
        f"  An answer takes {lengths.ANSWER_SHARE:.0%} of its limit ({sampling.longest}, "
        f"summaries {sampling.summary_max_tokens}), at most {lengths.ANSWER_TOKENS} tokens "
        f"(low: {lengths.ANSWER_SHARE_LOW:.0%} of the limit; high: all of it), "
        "unless --answer-tokens or --summary-tokens is given.",
        f"  {LEARNABLE:.0%} of the questions become examples of a generator (low: "
        f"{LEARNABLE_LOW:.0%}; high: all); {CORRECTED:.0%} are corrected in the debate, which "
        "with datasets.critics and datasets.w decides a critic's examples (low: "
        f"{CRITIC_SHARE_LOW:.0%}; high: all, with the repeats that stand for weights).",
        "  Jobs are billed by all tokens of their examples times epochs.",
        "  Failed attempts are not billed; no prompt is read from the vendor's cache.",
        *(
            ["  A likelihood (diversity) takes two requests per text, for one token each."]
            if config.diversity.measures
            else []
        ),
        *(["  Evaluation has the price of batches."] if config.evaluation.batch else []),
    ]
