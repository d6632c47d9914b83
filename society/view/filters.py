"""Which debates are listed: a filter from a page's address, and back into addresses and SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Self, TypeVar
from urllib.parse import urlencode

from store.records import Decoding, Split, StageKey

FLIPS = {
    "wrong_to_right": "vote turned right",
    "right_to_wrong": "vote turned wrong",
    "lost": "vote lost its answer",
    "changed": "vote changed its answer",
}
VOTES = {
    "right": "consensus right",
    "wrong": "consensus wrong",
    "tied": "tied vote",
    "divided": "not unanimous",
    "none": "no label",
}
SPLITS: tuple[Split, ...] = ("train", "eval")
DECODINGS: tuple[Decoding, ...] = ("sampled", "greedy")
_LONGEST_TEXT = 300
_VOTE_CONDITIONS = {
    "right": "correct",
    # A debate without a label has nothing that could be wrong.
    "wrong": "NOT correct AND answer IS NOT NULL",
    "tied": "tie",
    "divided": "votes < voters",
    "none": "answer IS NULL",
}
# Labels that are written differently; whether they also differ is looked up, see
# `debate_list._keep_really_changed`.
_REWRITTEN = (
    "first_answer IS DISTINCT FROM answer AND NOT coalesce(first_correct AND correct, false)"
)
# `flip` calls a vote that no longer has an answer wrong.
_FLIP_CONDITIONS = {
    "wrong_to_right": "flip = 'wrong_to_right'",
    "right_to_wrong": "flip = 'right_to_wrong' AND answer IS NOT NULL",
    "lost": "first_answer IS NOT NULL AND answer IS NULL",
    "changed": _REWRITTEN,
}
# The last round only: `rounds` is the number of the debate's last round.
_DISSENT = """
    (iteration, split, arm, decoding, question_id, rounds) IN (
        SELECT (iteration, split, arm, decoding, question_id, round)
        FROM turns SEMI JOIN (SELECT turn_id FROM verdicts WHERE NOT agrees) USING (turn_id)
        WHERE kind = 'answer' AND agent = $dissent AND answer IS NOT NULL)
"""

C = TypeVar("C", bound=str)


class BadAddress(ValueError):
    """A page's address holds a value that is not valid."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a debate must be like to be listed; None or "" asks for nothing.

    `flip` is a key of `FLIPS`, `vote` one of `VOTES`, `dissent` an agent whose last answer differs
    from the label, `text` what the question or a response contains, whatever the case.
    """

    iteration: int | None = None
    split: Split | None = None
    arm: str | None = None
    decoding: Decoding | None = None
    task: str | None = None
    flip: str | None = None
    vote: str | None = None
    dissent: int | None = None
    text: str = ""

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Self:
        """From an address's query. Raises `BadAddress`."""
        return cls(
            iteration=parse_whole(query, "iteration"),
            split=_parse_one_of(query, "split", SPLITS),
            arm=query.get("arm") or None,
            decoding=_parse_one_of(query, "decoding", DECODINGS),
            task=query.get("task") or None,
            flip=_parse_one_of(query, "flip", tuple(FLIPS)),
            vote=_parse_one_of(query, "vote", tuple(VOTES)),
            dissent=parse_whole(query, "dissent"),
            text=_parse_text(query),
        )

    def query(self, **more: object) -> str:
        """As the query of an address, with `more` in it; what is None or "" is left out."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in (own | more).items() if value not in (None, "")}
        return urlencode(given)

    def without(self, name: str) -> Self:
        """The filter with one condition less."""
        if name == "text":
            return replace(self, text="")
        return replace(self, **{name: None})  # type: ignore[arg-type]

    @property
    def conditions(self) -> list[tuple[str, str]]:
        """The name of every condition, and what it says in words."""
        words = {
            "iteration": "untuned" if self.iteration == 0 else f"iteration {self.iteration}",
            "split": {"train": "training questions", "eval": "held-out questions"}.get(
                self.split or ""
            ),
            "flip": FLIPS.get(self.flip or ""),
            "vote": VOTES.get(self.vote or ""),
            "dissent": f"agent {self.dissent} dissents",
            "text": f"contains “{self.text}”",
        }
        set_ones = [f.name for f in fields(self) if getattr(self, f.name) not in (None, "")]
        return [(name, words.get(name) or str(getattr(self, name))) for name in set_ones]


def parse_whole(query: Mapping[str, str], name: str) -> int | None:
    """A whole number of an address's query, None where there is none. Raises `BadAddress`."""
    text = query.get(name, "")
    if not text:
        return None
    # `int` would also take "²", "-1" and thousands of digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadAddress(f"{name} must be a whole number, not {text[:80]!r}")
    return int(text)


def parse_stage(query: Mapping[str, str]) -> StageKey:
    """The stage an address names in full. Raises `BadAddress`."""
    wanted = Filter.parse(query)
    if (
        wanted.iteration is None
        or wanted.split is None
        or wanted.arm is None
        or wanted.decoding is None
    ):
        raise BadAddress("the address must name iteration, split, arm and decoding")
    return StageKey(wanted.iteration, wanted.split, wanted.arm, wanted.decoding)


def title_stage(stage: StageKey) -> str:
    """A stage in words."""
    society = "untuned" if not stage.iteration else f"iteration {stage.iteration}"
    questions = "training" if stage.split == "train" else "held-out"
    return f"{stage.arm}, {society}, {questions} questions, {stage.decoding}"


def _parse_one_of(query: Mapping[str, str], name: str, known: tuple[C, ...]) -> C | None:
    value = query.get(name)
    if not value:
        return None
    for choice in known:
        if choice == value:
            return choice
    raise BadAddress(f"{name} must be one of {', '.join(known)}, not {value[:80]!r}")


def _parse_text(query: Mapping[str, str]) -> str:
    text = query.get("text", "").strip()
    if len(text) > _LONGEST_TEXT:
        raise BadAddress(f"a search takes up to {_LONGEST_TEXT} characters, not {len(text):,}")
    return text


def build_condition(wanted: Filter) -> tuple[str, dict[str, object]]:
    """The SQL condition on debates for a filter, with its values; it leaves the text out.

    For `flip = "changed"` it also lets pass debates that write the same label differently.
    """
    parts, values = ["true"], {}
    for name in ("iteration", "split", "arm", "decoding", "task"):
        value = getattr(wanted, name)
        if value is not None:
            parts.append(f"{name} = ${name}")
            values[name] = value
    if wanted.flip is not None:
        parts.append(_FLIP_CONDITIONS[wanted.flip])
    if wanted.vote is not None:
        parts.append(_VOTE_CONDITIONS[wanted.vote])
    if wanted.dissent is not None:
        parts.append(_DISSENT)
        values["dissent"] = wanted.dissent
    return " AND ".join(parts), values
