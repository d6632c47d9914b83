"""What a run has taken up to each moment: tokens and money, from its stored calls and jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from society.view.drawing import MOST_BANDS, Total, draw_totals
from store.reader import Reader


@dataclass(frozen=True, slots=True)
class CostPoint:
    """The sums from the start of a run until `until`; between `since` and it there were calls.

    `usd` counts what has a known price.
    """

    since: datetime
    until: datetime
    calls: int
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int
    usd: float


@dataclass(frozen=True, slots=True)
class CostCurve:
    """The sums by time, at most `MOST_BANDS` of them."""

    points: tuple[CostPoint, ...]

    @property
    def drawable(self) -> bool:
        """Whether anything was paid, over some time."""
        # Of a free run the table says it all, and a single moment makes no line.
        points = self.points
        return bool(points) and points[-1].usd > 0 and points[0].since < points[-1].until

    def count_elapsed(self, moment: datetime) -> float:
        """Seconds since the first call."""
        return (moment - self.points[0].since).total_seconds()


def read_cost_curve(reader: Reader) -> CostCurve:
    """Tokens and money by time, in equal steps. Reads all turns."""
    points: list[CostPoint] = []
    sums: Sequence[float] = (0, 0, 0, 0, 0.0)
    for since, until, *taken in reader.rows(_COSTS, {"steps": MOST_BANDS}):
        sums = [before + more for before, more in zip(sums, taken, strict=True)]
        calls, read, written, trained = map(int, sums[:4])
        points.append(CostPoint(since, until, calls, read, written, trained, sums[4]))
    return CostCurve(tuple(points))


def draw_money(curve: CostCurve) -> Markup:
    """USD so far over the time since the first call."""
    usd = Total("USD", tuple(point.usd for point in curve.points))
    return draw_totals("USD", _list_spans(curve), [usd], write_usd)


def draw_tokens(curve: CostCurve) -> Markup:
    """Tokens so far over the time since the first call."""
    return draw_totals("Tokens", _list_spans(curve), list_token_lines(curve), _write_tokens)


def list_token_lines(curve: CostCurve) -> list[Total]:
    """The lines of the chart of tokens; that of training only where something is trained."""
    points = curve.points
    lines = [
        Total("tokens in", tuple(float(point.prompt_tokens) for point in points)),
        Total("tokens out", tuple(float(point.completion_tokens) for point in points)),
        Total("trained tokens", tuple(float(point.trained_tokens) for point in points)),
    ]
    return [line for line in lines if line.values[-1] > 0]


def _list_spans(curve: CostCurve) -> list[tuple[float, float]]:
    return [(curve.count_elapsed(p.since), curve.count_elapsed(p.until)) for p in curve.points]


def write_usd(usd: float) -> str:
    """An amount of money, in cents, or in three digits where it is less than ten of them."""
    return f"{usd:,.2f}" if usd >= 0.1 or not usd else f"{usd:.3g}"


def _write_tokens(tokens: float) -> str:
    return f"{tokens:,.0f}"


# The prices are those of the view `spend`, call by call; a test compares the sums.
_COSTS = """
    WITH asked AS (
        SELECT model_id, input_usd, output_usd, batch_factor
        FROM models LEFT JOIN prices
            ON prices.provider = models.provider AND prices.tuned = (models.artifact IS NOT NULL)
    ),
    batched AS (
        SELECT bool_or((config ->> '$.evaluation.batch')::BOOLEAN) AS evaluation FROM runs
    ),
    sole AS (
        SELECT any_value(provider) AS provider FROM prices HAVING count(DISTINCT provider) = 1
    ),
    calls AS (
        SELECT created_at, model_id, split = 'eval' AS evaluates, prompt_tokens, completion_tokens
        FROM turns WHERE shared_turn_id IS NULL
        UNION ALL
        SELECT created_at, model_id, stage = 'evaluate', prompt_tokens, completion_tokens
        FROM charges
        WHERE state <> 'sent' OR turn_id IS NULL OR turn_id NOT IN (SELECT turn_id FROM turns)
    ),
    taken AS (
        SELECT created_at AS moment, prompt_tokens, completion_tokens, 0::BIGINT AS trained_tokens,
            (prompt_tokens * input_usd + completion_tokens * output_usd) / 1e6
                * if(evaluates AND (FROM batched), coalesce(batch_factor, 1), 1) AS usd
        FROM calls LEFT JOIN asked USING (model_id)
        UNION ALL
        SELECT coalesce(j.finished_at, j.created_at), 0, 0, coalesce(j.trained_tokens, 0),
            j.trained_tokens * p.training_usd / 1e6
        FROM jobs AS j
        LEFT JOIN models AS m ON m.job_id = j.job_id
        LEFT JOIN prices AS p ON p.provider = coalesce(m.provider, (FROM sole)) AND NOT p.tuned
        WHERE j.provider_job_id IS NOT NULL
    ),
    bounds AS (SELECT min(moment) AS began, max(moment) AS ended FROM taken)
    SELECT min(moment), max(moment), count(*),
        sum(prompt_tokens)::BIGINT, sum(completion_tokens)::BIGINT, sum(trained_tokens)::BIGINT,
        coalesce(sum(usd), 0)
    FROM taken, bounds
    GROUP BY least($steps - 1, floor($steps * date_diff('microsecond', began, moment)
        / greatest(1, date_diff('microsecond', began, ended))))
    ORDER BY 1
"""
