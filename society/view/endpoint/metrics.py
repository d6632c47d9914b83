"""Figures of a server, as text that Prometheus reads (its exposition format, version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from society.view.endpoint.society import ServedDebate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# From one call of a small model on this machine to a debate of a large one behind an API.
_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Histogram:
    """How many observations fall into each bucket; the last one is without an upper bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS_S) + 1))
    total_s: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_BUCKETS_S, seconds)] += 1
        self.total_s += seconds


@dataclass(slots=True)
class EndpointMetrics:
    """Counts what the server has done since its start.

    metrics.count_request("society", 200, 1.25)
    metrics.count_debate(debate)
    text = metrics.format({"society_requests_running": 3.0})
    """

    _requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    _times: dict[str, _Histogram] = field(default_factory=dict)
    _debates: Counter[str] = field(default_factory=Counter)
    _calls: Counter[str] = field(default_factory=Counter)
    _tokens: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count_request(self, model: str, status: int, seconds: float) -> None:
        """A request is over; 499 means that its client has left. `model` must be one that is
        served, or "": a label of any text would let a client fill the memory."""
        self._requests[model, status] += 1
        # Refusals take no time and would make the server look faster than its answers are.
        if status == 200:
            self._times.setdefault(model, _Histogram()).observe(seconds)

    def count_debate(self, debate: ServedDebate) -> None:
        """A debate is over, with its calls and tokens."""
        model = debate.form.model
        self._debates[model] += 1
        self._calls[model] += len(debate.turns)
        self._tokens[model, "prompt"] += debate.prompt_tokens
        self._tokens[model, "completion"] += debate.completion_tokens

    def format(self, gauges: Mapping[str, float]) -> str:
        """The text; `gauges` are what is so at this moment, by name."""
        return "".join(f"{line}\n" for line in self._list_lines(gauges))

    def _list_lines(self, gauges: Mapping[str, float]) -> Iterator[str]:
        yield from _list_counter(
            "society_requests_total",
            "Requests that are over, by model and HTTP status; 499: the client has left.",
            (
                ((("model", model), ("status", str(status))), count)
                for (model, status), count in self._requests.items()
            ),
        )
        for name, text, counts in (
            ("society_debates_total", "Debates that are over, by model.", self._debates),
            ("society_calls_total", "Calls of the society's models.", self._calls),
        ):
            found = (((("model", model),), count) for model, count in counts.items())
            yield from _list_counter(name, text, found)
        yield from _list_counter(
            "society_tokens_total",
            "Tokens of all calls, by model and kind (prompt, completion).",
            (
                ((("model", model), ("kind", kind)), count)
                for (model, kind), count in self._tokens.items()
            ),
        )
        yield from self._list_histogram()
        for name, value in gauges.items():
            yield f"# TYPE {name} gauge"
            yield f"{name} {value:.10g}"

    def _list_histogram(self) -> Iterator[str]:
        name = "society_request_seconds"
        yield f"# HELP {name} Time of answered requests, waiting included."
        yield f"# TYPE {name} histogram"
        for model, times in self._times.items():
            below = 0
            bounds: Sequence[str] = [*(f"{bound:g}" for bound in _BUCKETS_S), "+Inf"]
            # Prometheus counts in each bucket what is in the smaller ones, too.
            for bound, count in zip(bounds, times.counts, strict=True):
                below += count
                labels = _format_labels((("model", model), ("le", bound)))
                yield f"{name}_bucket{labels} {below}"
            labels = _format_labels((("model", model),))
            yield f"{name}_sum{labels} {times.total_s:.6f}"
            yield f"{name}_count{labels} {below}"


def _list_counter(name: str, text: str, found: Iterable[tuple[Labels, int]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} counter"
    for labels, count in found:
        yield f"{name}{_format_labels(labels)} {count}"


def _format_labels(labels: Labels) -> str:
    # Only names that are ours come here, so nothing has to be escaped.
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}"
