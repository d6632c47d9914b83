"""How the agents of evaluation debates vote, and how many of their answers can be read.

Only complete debates count (those with votes). Gold answers are not needed: these figures stand
beside every accuracy, and are the only ones of a run without gold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from evals.arm_kinds import MULTIAGENT
from evals.intervals import PairedDifference, paired_shares
from evals.metrics import DECODINGS
from store.ledger import Store
from store.records import IN_STAGE, StageKey

# The debates with votes: a debate that is still going on counts in no figure. A debate without a
# readable answer in a round has no share there: a share of 0 would lower the mean.
DECIDED = """
    decided as (
        select iteration, split, arm, decoding, question_id, max(round) as rounds,
               max(votes / nullif(voters, 0)) filter (round = 1) as first_share,
               arg_max(struct_pack(share := votes / nullif(voters, 0), tie, answer, correct), round)
                   as final
        from votes where split = 'eval' group by all
    )
"""
# Of groups of `decided`: questions, known, first, last, coverage, ties, as in `Agreement`. `first`
# needs a second round; with one round, first and last would be the same answer.
VOTE_SHARES = """
    count(*) as questions, count(final.correct) as known,
    avg(first_share) filter (rounds > 1) as first, avg(final.share) as last,
    avg((final.answer is not null)::double) as coverage, avg(final.tie::double) as ties
"""
# Figures of votes are means over questions, those of reading are means over answers.
_AGREEMENTS = f"""
    with asked as (
        select question_id from questions where if($task is null, not is_extra, task = $task)
    ),

    {DECIDED},

    debated as (
        select * from decided semi join asked using (question_id) where arm = $arm
    ),

    spoken as (
        select iteration, decoding, question_id, round, rounds, agent, turn_id,
               answer is null as unparsed, finish_reason = 'length' as truncated
        from turns join debated using (iteration, decoding, question_id)
        where turns.arm = $arm and turns.split = 'eval' and kind = 'answer'
    ),

    turned as (
        select iteration, decoding, question_id, agent,
               arg_min(agrees, round) as first, arg_max(agrees, round) as final
        from spoken join verdicts using (turn_id)
        where rounds > 1 and agrees is not null
        group by all
    ),

    voted as (
        select iteration, decoding, {VOTE_SHARES} from debated group by all
    ),

    readings as (
        select iteration, decoding, avg(unparsed::double) as unparsed,
               avg(truncated::double) as truncated
        from spoken group by all
    ),

    flips as (
        select iteration, decoding, avg((not first and final)::double) as to_label,
               avg((first and not final)::double) as from_label
        from turned group by all
    )

    select iteration, decoding, questions, known, first, last, coverage, ties,
           coalesce(unparsed, 0), coalesce(truncated, 0), to_label, from_label
    from voted
    left join readings using (iteration, decoding)
    left join flips using (iteration, decoding)
"""


_ROUNDS = f"""
    select arg_min(votes, round), arg_max(votes, round)
    from votes where {IN_STAGE} group by question_id having max(round) > 1 order by question_id
"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The complete debates of one society on one task under one decoding; shares 0 to 1.

    `task` is None for the run's own task, else the label of one it is only evaluated on. `known`
    counts the questions with gold. `first` and `last` are the mean share of the agents' readable
    answers in round 1 and in the last round that equal the plurality answer; None where nothing can
    be read, `first` also in debates of one round. `coverage` is the share of questions with an
    answer of the vote, `ties` the share whose last vote was tied. `unparsed` is the share of all
    answers that could not be read, `truncated` of those cut at the token limit. `to_label` and
    `from_label` are the shares of the agents' own answers that turned to the vote's last answer, or
    away from it, between round 1 and the last round.
    """

    task: str | None
    stage: StageKey
    questions: int
    known: int
    first: float | None
    last: float | None
    coverage: float
    ties: float
    unparsed: float
    truncated: float
    to_label: float | None
    from_label: float | None


def read_agreements(
    store: Store, arm: str = MULTIAGENT, task: str | None = None
) -> list[Agreement]:
    """One for every evaluated society and decoding, in order, whether gold is known or not.

    `task` is the label of a task that is only evaluated; None is the run's own task.
    """
    found = [
        Agreement(task, StageKey(iteration, "eval", arm, decoding), *figures)
        for iteration, decoding, *figures in store.rows(_AGREEMENTS, {"arm": arm, "task": task})
    ]
    # In the order of DECODINGS, which is not the alphabet's.
    return sorted(
        found, key=lambda each: (each.stage.iteration, DECODINGS.index(each.stage.decoding))
    )


def compare_rounds(store: Store, stage: StageKey, agents: int) -> PairedDifference | None:
    """The share of the `agents` that are with the vote, after the last round minus round 1.

    Paired by question. None for fewer than two debates, and for those of one round.
    """
    found = store.rows(_ROUNDS, stage.params)
    if len(found) < 2:
        return None
    return paired_shares(
        [first / agents for first, _ in found], [last / agents for _, last in found]
    )


def pool_agreements(seeds: Sequence[Agreement]) -> Agreement:
    """The mean over runs with other seeds, each run counted once.

    `questions` and `known` are those of the run with the most. A share that a run does not have
    counts in none of the means.
    """
    return replace(
        seeds[0],
        questions=max(each.questions for each in seeds),
        known=max(each.known for each in seeds),
        first=_mean(each.first for each in seeds),
        last=_mean(each.last for each in seeds),
        coverage=fmean(each.coverage for each in seeds),
        ties=fmean(each.ties for each in seeds),
        unparsed=fmean(each.unparsed for each in seeds),
        truncated=fmean(each.truncated for each in seeds),
        to_label=_mean(each.to_label for each in seeds),
        from_label=_mean(each.from_label for each in seeds),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    # None says that a share does not exist; as 0 it would lower the mean.
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
