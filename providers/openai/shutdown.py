"""When a model stops, as its server announces it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from providers.preflight import Finding, Need

_OTHER_MODEL = "choose a model that stays, or run fewer iterations"
# OpenAI's name, OpenRouter's, and what gateways call the same.
_ANSWERING = (
    "shutdown_date",
    "expiration_date",
    "retirement_date",
    "sunset_date",
    "end_of_life",
    "deprecation_date",
)
_LONGEST_S = 1e11
"""Unix time beyond this is in milliseconds."""


def find_shutdowns(model: str, facts: Mapping[str, object], need: Need) -> Iterator[Finding]:
    """What is announced of the end of answering and of fine-tuning, seen from what is needed."""
    for what, ends in _announced(facts):
        if what == "fine-tuning" and not need.finetune:
            continue
        day = f"{ends:%Y-%m-%d}"
        if ends <= datetime.now(UTC):
            yield Finding("error", f"{what} of {model} ended on {day}", _OTHER_MODEL)
        elif ends <= _utc(need.ends_at):
            text = f"{what} of {model} ends on {day}, before the run may be over"
            yield Finding("error", text, _OTHER_MODEL)
        else:
            text = f"{what} of {model} ends on {day}, and so do the models tuned from it"
            yield Finding("warning", text)


def _announced(facts: Mapping[str, object]) -> Iterator[tuple[str, datetime]]:
    """Azure has `deprecation.inference` and `.fine_tune`, Mistral a bare `deprecation`."""
    deprecation = facts.get("deprecation")
    both = deprecation if isinstance(deprecation, Mapping) else {"inference": deprecation}
    answering = [facts.get(name) for name in _ANSWERING] + [both.get("inference")]
    moments = [moment for value in answering if (moment := _moment(value)) is not None]
    if moments:
        yield "answering", min(moments)
    tuning = _moment(both.get("fine_tune") or both.get("fineTune"))
    if tuning is not None:
        yield "fine-tuning", tuning


def _moment(value: object) -> datetime | None:
    """A date, a time or Unix time; None for what is none of them."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value.strip()) > 8:
        value = int(value)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return datetime.fromtimestamp(value / (1000 if value > _LONGEST_S else 1), UTC)
        if isinstance(value, str):
            return _utc(datetime.fromisoformat(value.strip()))
    except (ValueError, OverflowError, OSError):
        return None
    return None


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
