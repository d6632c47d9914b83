"""One debate in full, and beside it what its page adds: revisions, uses, the same question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.debates import DebateRecord, DebateTurn, read_debate
from society.view.debate_list import DebateKey
from society.view.filters import BadAddress, title_stage
from society.view.word_diff import DiffPiece, diff_words
from store.reader import Reader
from store.records import StageKey


class NotFound(LookupError):
    """The run does not hold what an address names."""


@dataclass(frozen=True, slots=True)
class DatasetUse:
    """A dataset that a turn is an example of."""

    dataset_id: str
    position: int


@dataclass(frozen=True, slots=True)
class DebatePage:
    """What the page of a debate shows.

    `uses` and `revisions` are by turn_id; a revision compares an answer with the agent's own answer
    in the round before. `others` are the other stages that debated the question.
    """

    debate: DebateRecord
    uses: Mapping[int, Sequence[DatasetUse]]
    revisions: Mapping[int, Sequence[DiffPiece]]
    others: tuple[StageKey, ...]

    @property
    def key(self) -> DebateKey:
        """Its place in the list of debates."""
        return DebateKey(self.debate.stage, self.debate.position, self.debate.question_id)


def read_debate_page(reader: Reader, stage: StageKey, question_id: str) -> DebatePage:
    """The page of one debate; raises `NotFound`."""
    debate = read_debate(reader, stage, question_id)
    if debate is None:
        raise NotFound(f"no debate on question {question_id!r} ({title_stage(stage)})")
    return DebatePage(
        debate,
        _read_uses(reader, [turn.turn_id for turn in debate.turns]),
        _compare_rounds(debate),
        tuple(other for other in list_stages(reader, question_id) if other != stage),
    )


def read_turn_text(reader: Reader, turn_id: int) -> str:
    """A turn's whole response; raises `NotFound`."""
    found = reader.rows("SELECT response FROM turns WHERE turn_id = $1", [turn_id])
    if not found:
        raise NotFound(f"no turn {turn_id}")
    return str(found[0][0])


def find_debate_of_turn(reader: Reader, turn_id: int) -> tuple[StageKey, str]:
    """The stage and the question that a turn belongs to; raises `NotFound`."""
    found = reader.rows(
        # The page of a training debate shows the vote on its label, not the answers behind it.
        "SELECT iteration, if(split = 'label', 'train', split), arm, decoding, question_id "
        "FROM turns WHERE turn_id = $1",
        [turn_id],
    )
    if not found:
        raise NotFound(f"no turn {turn_id}")
    return StageKey(*found[0][:4]), str(found[0][4])


def parse_question(question: str | None) -> str:
    """The question an address names. Raises `BadAddress`."""
    if not question:
        raise BadAddress("the address must name a question")
    return question


def list_stages(reader: Reader, question_id: str) -> list[StageKey]:
    """The stages that have debated a question."""
    found = reader.rows(
        "SELECT DISTINCT iteration, split, arm, decoding FROM votes WHERE question_id = $1 "
        "AND split <> 'label' "
        "ORDER BY arm, decoding DESC, iteration",
        [question_id],
    )
    return [StageKey(*row) for row in found]


def _read_uses(reader: Reader, ids: Sequence[int]) -> dict[int, list[DatasetUse]]:
    uses: defaultdict[int, list[DatasetUse]] = defaultdict(list)
    # By turn_id, since a turn can be an example of several datasets, such as those of pooled arms.
    for turn_id, dataset_id, position in reader.rows(
        "SELECT turn_id, dataset_id, position FROM dataset_examples "
        "WHERE turn_id IN (SELECT unnest($ids)) ORDER BY dataset_id",
        {"ids": list(ids)},
    ):
        uses[turn_id].append(DatasetUse(dataset_id, position))
    return dict(uses)


def _compare_rounds(debate: DebateRecord) -> dict[int, list[DiffPiece]]:
    answers: dict[tuple[int, int], DebateTurn] = {
        (turn.round, turn.agent): turn for turn in debate.turns if turn.kind == "answer"
    }
    revisions = {}
    for (number, agent), turn in answers.items():
        earlier = answers.get((number - 1, agent))
        if earlier is not None:
            pieces = diff_words(earlier.response, turn.response)
            # None: the texts are too long to compare, and the page shows them without marks.
            if pieces is not None:
                revisions[turn.turn_id] = pieces
    return revisions
