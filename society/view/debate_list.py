"""The list of debates, and the debates before and after one, from votes and verdicts.

Pages are cut by key, never by OFFSET, so that the last page costs what the first one does. Texts
are read for the rows of one page only.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evals.debates import read_verdicts
from society.view.filters import DECODINGS, SPLITS, BadAddress, Filter, build_condition
from store.reader import Reader
from store.records import StageKey
from store.schema import read_view_sql

PAGE = 50
# The views of this software, whatever version of it has written the file.
DEBATES = f"({read_view_sql('debates')}\n) AS d"
# In front of a query over `DEBATES`: of some questions only, which is pushed down to the votes.
_AMONG = "WITH votes AS (FROM main.votes WHERE question_id IN (SELECT unnest($among))) "
# The bounds of a list without a limit; INTEGER ends there in DuckDB.
_EVERY_ITERATION = (0, 2**31 - 1)
# The order of the list. The comparison with a cursor is one of rows, (a, b, …) > ($a, $b, …), so
# every field must sort in one direction; _BACK is the same order read from its end. A question that
# the run does not store has no position: -1 puts it first, and NULL would make the comparison NULL.
_KEY = "iteration, split, arm, decoding, coalesce(position, -1), question_id"
_BACK = (
    "iteration DESC, split DESC, arm DESC, decoding DESC, coalesce(position, -1) DESC, "
    "question_id DESC"
)
# Labels that are written differently may still be equal; `_keep_really_changed` looks them up.
_SURELY_CHANGED = "first_correct IS DISTINCT FROM correct OR first_answer IS NULL OR answer IS NULL"


@dataclass(frozen=True, slots=True)
class DebateKey:
    """Where a debate is in the order of all debates; `place` is its question's in the split."""

    stage: StageKey
    place: int
    question_id: str

    def encode(self) -> str:
        """For an address."""
        stage = self.stage.params.values()
        text = json.dumps([*stage, self.place, self.question_id], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> DebateKey:
        """From an address. Raises `BadAddress`."""
        try:
            # `encode` leaves the padding out, which decoding needs.
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            iteration, split, arm, decoding, place, question_id = json.loads(raw)
            if split not in SPLITS or decoding not in DECODINGS:
                raise ValueError(text)
            stage = StageKey(int(iteration), split, str(arm), decoding)
            return cls(stage, int(place), str(question_id))
        except (ValueError, TypeError, binascii.Error):
            raise BadAddress(f"not a place in the list: {text[:80]!r}") from None

    @property
    def values(self) -> dict[str, object]:
        return {
            "k_iteration": self.stage.iteration,
            "k_split": self.stage.split,
            "k_arm": self.stage.arm,
            "k_decoding": self.stage.decoding,
            "k_place": self.place,
            "k_question": self.question_id,
        }


@dataclass(frozen=True, slots=True)
class AgentOutcome:
    """One agent's way through a debate: first and last answer, and what they were worth. An answer
    that is None could not be read; `first_cut` and `cut` say that it ended at the token limit."""

    agent: int
    first_answer: str | None
    answer: str | None
    first_cut: bool
    cut: bool
    first_agrees: bool | None
    first_correct: bool | None
    agrees: bool | None
    correct: bool | None


@dataclass(frozen=True, slots=True)
class ListedDebate:
    """One row of the list. `question` is None where the run does not know the question."""

    key: DebateKey
    task: str | None
    rounds: int
    first_answer: str | None
    answer: str | None
    votes: int
    voters: int
    tie: bool
    first_correct: bool | None
    correct: bool | None
    question: str | None
    gold: str | None
    agents: tuple[AgentOutcome, ...]


@dataclass(frozen=True, slots=True)
class DebateList:
    """Some debates in order. `earlier` and `later`: whether there are more to either side."""

    rows: tuple[ListedDebate, ...]
    earlier: bool
    later: bool


def read_page(
    reader: Reader, wanted: Filter, after: DebateKey | None, before: DebateKey | None
) -> DebateList:
    """The `PAGE` debates that follow `after`, or that come before `before`, or the first ones."""
    # One more than a page, to know whether there is another page; a count would read every debate.
    keys = find_keys(reader, wanted, after or before, PAGE + 1, back=before is not None)
    more, keys = len(keys) > PAGE, keys[:PAGE]
    if before is not None:
        keys.reverse()
        return DebateList(read_rows(reader, keys), earlier=more, later=True)
    return DebateList(read_rows(reader, keys), earlier=after is not None, later=more)


def count_debates(reader: Reader, wanted: Filter) -> int:
    """How many debates there are like this."""
    condition, values = build_condition(wanted)
    if wanted.flip != "changed":
        ((number,),) = reader.rows(f"SELECT count(*) FROM {DEBATES} WHERE {condition}", values)
        return int(number)
    # Most changes are certain from the votes alone. Only the doubtful ones come back to Python.
    ((certain, doubtful),) = reader.rows(
        f"SELECT count_if(certain), list(key) FILTER (NOT certain) FROM (SELECT "
        f"({_KEY}) AS key, {_SURELY_CHANGED} AS certain FROM {DEBATES} WHERE {condition})",
        values,
    )
    return int(certain) + len(
        _keep_really_changed(reader, [(_parse_key(row), False) for row in doubtful or ()])
    )


def find_neighbor(
    reader: Reader, wanted: Filter, key: DebateKey, *, back: bool
) -> DebateKey | None:
    """The next debate after `key` in the list, or the last one before it; None at its end."""
    found = find_keys(reader, wanted, key, 1, back=back)
    return found[0] if found else None


def find_keys(
    reader: Reader,
    wanted: Filter,
    start: DebateKey | None,
    limit: int | None,
    *,
    back: bool,
    among: Sequence[str] | None = None,
) -> list[DebateKey]:
    """Up to `limit` debates in order, from `start` on or, `back`, before it, nearest first.

    The filter's text is not looked at. `among` names the questions that come into question.
    """
    if wanted.flip != "changed":
        return [key for key, _ in _find_candidates(reader, wanted, start, limit, back, among)]
    found: list[DebateKey] = []
    # Some candidates drop out, so more than the limit are read at once, and ever more where most
    # drop out, so that a filter that few debates pass does not take a query per page.
    batch = None if limit is None else 4 * limit
    while True:
        candidates = _find_candidates(reader, wanted, start, batch, back, among)
        found += _keep_really_changed(reader, candidates)
        if batch is None or len(candidates) < batch or (limit and len(found) >= limit):
            return found[:limit]
        start, batch = candidates[-1][0], 10 * batch


def read_rows(reader: Reader, keys: list[DebateKey]) -> tuple[ListedDebate, ...]:
    """What the list shows about these debates, in this order."""
    if not keys:
        return ()
    ids = sorted({key.question_id for key in keys})
    asked = {
        question_id: (question, gold)
        for question_id, question, gold in reader.rows(
            "SELECT question_id, question, gold FROM questions "
            "WHERE question_id IN (SELECT unnest($ids))",
            {"ids": ids},
        )
    }
    decided = {
        _parse_key(row): row[6:]
        for row in reader.rows(
            f"{_AMONG} SELECT {_KEY}, task, rounds, first_answer, answer, votes, voters, tie, "
            f"first_correct, correct FROM {DEBATES}",
            {"among": ids},
        )
    }
    agents = _read_agents(reader, ids)
    listed = []
    for key in keys:
        # A debate may have gone between two queries: a run removes failed turns with their votes.
        if key in decided:
            about = asked.get(key.question_id, (None, None))
            spoken = tuple(agents[key.stage, key.question_id])
            fields = (key, *decided[key], *about, spoken)
            listed.append(ListedDebate(*fields))
    return tuple(listed)


def _find_candidates(
    reader: Reader,
    wanted: Filter,
    start: DebateKey | None,
    limit: int | None,
    back: bool,
    among: Sequence[str] | None,
) -> list[tuple[DebateKey, bool]]:
    """The keys, and whether it is certain that a vote with two labels has changed."""
    condition, values = build_condition(wanted)
    condition += " AND iteration BETWEEN $first_iteration AND $last_iteration"
    # The cursor: everything before it in the list is skipped by comparison, never by counting rows.
    if start is not None:
        sign = "<" if back else ">"
        condition += (
            f" AND ({_KEY}) {sign} "
            "($k_iteration, $k_split, $k_arm, $k_decoding, $k_place, $k_question)"
        )
        values |= start.values
    if among is not None:
        values["among"] = list(among)
    query = (
        f"{'' if among is None else _AMONG} SELECT {_KEY}, {_SURELY_CHANGED} "
        f"FROM {DEBATES} WHERE {condition} ORDER BY {_BACK if back else _KEY}"
    )
    if limit is None:
        return _query_keys(reader, query, values, _EVERY_ITERATION)
    found: list[tuple[DebateKey, bool]] = []
    for iterations in _iteration_ranges(reader, wanted, start, back):
        values["limit"] = limit - len(found)
        found += _query_keys(reader, query + " LIMIT $limit", values, iterations)
        if len(found) == limit:
            break
    return found


def _query_keys(
    reader: Reader, query: str, values: dict[str, object], iterations: tuple[int, int]
) -> list[tuple[DebateKey, bool]]:
    first, last = iterations
    rows = reader.rows(query, values | {"first_iteration": first, "last_iteration": last})
    return [(_parse_key(row), row[6]) for row in rows]


def _iteration_ranges(
    reader: Reader, wanted: Filter, start: DebateKey | None, back: bool
) -> Iterator[tuple[int, int]]:
    """Which iterations to look at one after the other, each time from the first to the last.

    The order begins with the iteration, so that a page is mostly full after one or two of them;
    where little is found, ever more are looked at together.
    """
    if wanted.iteration is not None:
        yield wanted.iteration, wanted.iteration
        return
    left = [row[0] for row in reader.rows("SELECT DISTINCT iteration FROM votes ORDER BY 1")]
    if back:
        left.reverse()
    if start is not None:
        here = start.stage.iteration
        left = [i for i in left if (i <= here if back else i >= here)]
    # A query over one iteration reads its part of `votes` only. Doubling keeps the number of
    # queries logarithmic when a filter matches almost nothing.
    together = 1
    while left:
        step, left = left[:together], left[together:]
        yield min(step), max(step)
        together *= 2


def _parse_key(row: Sequence[Any]) -> DebateKey:
    return DebateKey(StageKey(*row[:4]), row[4], row[5])


def _keep_really_changed(
    reader: Reader, candidates: Sequence[tuple[DebateKey, bool]]
) -> list[DebateKey]:
    """Those whose first label differs from the last also in value.

    The first label is a round-1 answer as somebody wrote it; if it equals the last, that turn's
    verdict says so.
    """
    # "1/2" and "0.5" are the same label written in two ways: the strings cannot tell, a verdict
    # can.
    doubtful = [key for key, certain in candidates if not certain]
    agents = _read_agents(reader, sorted({key.question_id for key in doubtful}))
    labels = _read_first_labels(reader, doubtful)
    return [
        key
        for key, certain in candidates
        if certain
        or not any(
            spoken.first_agrees and spoken.first_answer == labels[key.stage, key.question_id]
            for spoken in agents[key.stage, key.question_id]
        )
    ]


def _read_first_labels(
    reader: Reader, keys: Sequence[DebateKey]
) -> dict[tuple[StageKey, str], str | None]:
    if not keys:
        return {}
    found = reader.rows(
        "SELECT iteration, split, arm, decoding, question_id, answer FROM votes "
        "WHERE round = 1 AND question_id IN (SELECT unnest($ids))",
        {"ids": sorted({key.question_id for key in keys})},
    )
    return {(StageKey(*row[:4]), row[4]): row[5] for row in found}


def _read_agents(
    reader: Reader, ids: Sequence[str]
) -> dict[tuple[StageKey, str], list[AgentOutcome]]:
    """Everybody's first and last answer, by debate; in two steps, which need no join of all."""
    agents: dict[tuple[StageKey, str], list[AgentOutcome]] = defaultdict(list)
    if not ids:
        return agents
    turns = reader.rows(
        """
        SELECT iteration, split, arm, decoding, question_id, agent,
            arg_min(struct_pack(turn_id, answer, finish_reason), round),
            arg_max(struct_pack(turn_id, answer, finish_reason), round)
        FROM turns WHERE kind = 'answer' AND question_id IN (SELECT unnest($ids))
        GROUP BY ALL ORDER BY agent
        """,
        {"ids": list(ids)},
    )
    worth = read_verdicts(reader, [end["turn_id"] for turn in turns for end in turn[-2:]])
    for *stage, question_id, agent, first, last in turns:
        agents[StageKey(*stage), question_id].append(
            AgentOutcome(
                agent,
                first["answer"],
                last["answer"],
                first["finish_reason"] == "length",
                last["finish_reason"] == "length",
                *worth.get(first["turn_id"], (None, None)),
                *worth.get(last["turn_id"], (None, None)),
            )
        )
    return agents
