"""Checks, iteration by iteration, whether a society that learns from its own votes gets worse.

A society can talk itself into an error: once most agents share it, the vote teaches it to all. What
can be seen of that, iteration by iteration, is compared with the best earlier iteration of the
same arm. A concern is raised where the change is for the worse, is at least `LEAST` (5 points; 10
for `one_answer`) and would come about by chance in less than `LEVEL` (1 %) of cases. The level is
strict since every iteration is compared with the best of several, which is partly luck.

Without gold, on training questions:
    coverage        fewer questions get a label
    agreement       the plurality has fewer of the votes
    unparsed        more answers cannot be read
    truncated       more answers are cut at the token limit
    one_answer      one answer has become the label of many more questions
    unanimous       nearly all votes are unanimous: right or wrong, they correct nothing any more
With gold:
    label_accuracy  fewer of the labels are right (training questions)
    held_out        fewer held-out questions are answered rightly (consensus)

The test: values per question from 0 to 1, paired where both iterations asked the same questions,
else Welch's; normal approximation with one value 0 and one value 1 added to each side, which keeps
it honest in small samples (Agresti & Caffo 2000, The American Statistician 54:280).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import log2
from statistics import fmean
from typing import Literal

from evals.arm_kinds import MULTIAGENT
from evals.intervals import paired_p_value, unpaired_p_value
from evals.metrics import read_by_question
from store.ledger import Store
from store.records import Decoding

Kind = Literal[
    "coverage", "agreement", "unparsed", "truncated", "one_answer", "unanimous",
    "label_accuracy", "held_out",
]  # fmt: skip

# Strict, as each iteration is compared with the best of several, which is partly luck.
LEVEL = 0.01
LEAST = 0.05
LEAST_ONE_ANSWER = 0.10
UNANIMOUS = 0.95

# A run of an early version has no row in `arms`; its labels are the final votes.
_SOURCE = "select coalesce(max(labels), 'final') from arms where arm = ?"
# `readings` looks at the answers of the round that the labels come from, or of round 1 where a vote
# of its own labels.
_VOTES = """
    with own_votes as (from label_votes where arm = $arm),
    readings as (
        select t.iteration, t.question_id, avg((t.answer is null)::double) as unparsed,
               avg((t.finish_reason = 'length')::double) as truncated
        from standing_answers t
        semi join own_votes using (iteration, question_id, round)
        where t.split = 'train' and t.decoding = 'sampled' and t.arm = $arm
        group by all
    )
    select iteration, question_id, answer, votes, voters, correct, unparsed, truncated
    from own_votes left join readings using (iteration, question_id)
    order by iteration, question_id
"""
_EVALUATED = """
    select distinct decoding, iteration
    from votes join (select question_id, is_extra from questions) using (question_id)
    where arm = ? and split = 'eval' and not is_extra and correct is not null
    order by decoding desc, iteration
"""

Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that is getting worse in iteration `iteration` of `arm`.

    `text` is one sentence with the figures, `before` the iteration it is compared with, `p_value`
    how easily chance does it; values are shares of 1.
    """

    arm: str
    iteration: int
    kind: Kind
    before: int
    value: float
    value_before: float
    p_value: float
    text: str


@dataclass(slots=True)
class _Pass:
    """What one iteration's labels look like; values from 0 to 1 by question."""

    covered: Values = field(default_factory=dict)
    share: Values = field(default_factory=dict)
    unparsed: Values = field(default_factory=dict)
    truncated: Values = field(default_factory=dict)
    unanimous: Values = field(default_factory=dict)
    right: Values = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def commonest(self) -> tuple[str, Values]:
        """The most common label and, by labelled question, whether it is the label there."""
        counts = Counter(self.labels.values())
        # Ties go to the label that sorts first, so that every run of the check names the same one.
        answer = min(counts, key=lambda label: (-counts[label], label), default="")
        return answer, {q: float(label == answer) for q, label in self.labels.items()}

    @property
    def entropy_bits(self) -> float:
        counts = Counter(self.labels.values())
        total = counts.total()
        return -sum(n / total * log2(n / total) for n in counts.values())


def find_concerns(store: Store, arm: str = MULTIAGENT) -> list[Concern]:
    """Everything to be worried about in an arm, by iteration.

    Iterations that have only begun count with what they have so far.
    """
    found = [*find_label_concerns(store, arm), *find_held_out_concerns(store, arm)]
    return sorted(found, key=lambda concern: concern.iteration)


def find_label_concerns(
    store: Store, arm: str = MULTIAGENT, iteration: int | None = None
) -> list[Concern]:
    """What training debates show, of one iteration or of all; known before anything is tuned."""
    return [one for one in _check_labels(store, arm) if iteration in (None, one.iteration)]


def find_held_out_concerns(
    store: Store, arm: str = MULTIAGENT, iteration: int | None = None
) -> list[Concern]:
    """What evaluation shows, of one iteration or of all."""
    return [one for one in _check_held_out(store, arm) if iteration in (None, one.iteration)]


@dataclass(frozen=True, slots=True)
class _LabelSign:
    """One figure of the labels that gets worse when it rises (`up`) or falls; see the module.

    `text` is the sentence for people. `with_gold` says that the figure also counts where the labels
    are gold answers; `floor` is the least value that raises a concern.
    """

    kind: Kind
    values: Callable[[_Pass], Values]
    up: bool
    text: str
    with_gold: bool = False
    floor: float = 0.0


_LABEL_SIGNS = (
    _LabelSign(
        "unparsed",
        lambda one: one.unparsed,
        up=True,
        text="{now:.1f} % of the answers of iteration {k} cannot be read, {then:.1f} % in "
        "iteration {before}: look at some, and at sampling.max_tokens",
        with_gold=True,
    ),
    _LabelSign(
        "truncated",
        lambda one: one.truncated,
        up=True,
        text="{now:.1f} % of the answers of iteration {k} are cut at the token limit, {then:.1f} % "
        "in iteration {before}: answers are getting longer, or sampling.max_tokens is too low",
        with_gold=True,
    ),
    _LabelSign(
        "coverage",
        lambda one: one.covered,
        up=False,
        text="only {now:.1f} % of the {n} training questions of iteration {k} have a label, "
        "{then:.1f} % in iteration {before}",
    ),
    _LabelSign(
        "agreement",
        lambda one: one.share,
        up=False,
        text="agreement dropped: {now:.1f} % of the votes of iteration {k} go to the label, "
        "{then:.1f} % in iteration {before}",
    ),
    _LabelSign(
        "label_accuracy",
        lambda one: one.right,
        up=False,
        text="label accuracy dropped: {now:.1f} % of the {n} labels of iteration {k} are right, "
        "{then:.1f} % in iteration {before}, so the models learn more errors than before",
    ),
    _LabelSign(
        "unanimous",
        lambda one: one.unanimous,
        up=True,
        text="{now:.1f} % of the votes of iteration {k} are unanimous, {then:.1f} % in iteration "
        "{before}: the votes, right or wrong, now correct almost nothing",
        floor=UNANIMOUS,
    ),
)


def _check_labels(store: Store, arm: str) -> Iterator[Concern]:
    [(source,)] = store.rows(_SOURCE, [arm])
    passes = _read_passes(store, arm)
    # Gold labels are right and complete by definition: only how the answers read can get worse.
    gold = source == "gold"
    for sign in _LABEL_SIGNS:
        if sign.with_gold or not gold:
            yield from _check_sign(arm, passes, sign)
    if not gold:
        yield from _check_commonest(arm, passes)


def _check_sign(arm: str, passes: Mapping[int, _Pass], sign: _LabelSign) -> Iterator[Concern]:
    known = {k: values for k, one in passes.items() if (values := sign.values(one))}
    for k, before, p_value in _find_worse(known, sign.up, LEAST):
        value, earlier = fmean(known[k].values()), fmean(known[before].values())
        # Far from the floor a rise is welcome: unanimity is a concern only when it is nearly
        # complete.
        if value < sign.floor:
            continue
        text = sign.text.format(
            k=k, n=len(known[k]), now=100 * value, then=100 * earlier, before=before
        )
        text += f" (p = {p_value:.2g})"
        yield Concern(arm, k, sign.kind, before, value, earlier, p_value, text)


def _check_commonest(arm: str, passes: Mapping[int, _Pass]) -> Iterator[Concern]:
    """Whether one answer has become the label of many more questions."""
    shares = {k: one.commonest[1] for k, one in passes.items() if one.labels}
    for k, before, p_value in _find_worse(shares, True, LEAST_ONE_ANSWER):
        answer = passes[k].commonest[0]
        value, earlier = fmean(shares[k].values()), fmean(shares[before].values())
        yield Concern(
            arm, k, "one_answer", before, value, earlier, p_value,
            f"{answer!r} is the label of {100 * value:.1f} % of the labelled questions of "
            f"iteration {k}, the commonest one of iteration {before} was that of "
            f"{100 * earlier:.1f} % (entropy {passes[before].entropy_bits:.2f} → "
            f"{passes[k].entropy_bits:.2f} bits): the answers collapse into one "
            f"(p = {p_value:.2g})",
        )  # fmt: skip


def _check_held_out(store: Store, arm: str) -> Iterator[Concern]:
    evaluated: defaultdict[Decoding, list[int]] = defaultdict(list)
    for decoding, iteration in store.rows(_EVALUATED, [arm]):
        evaluated[decoding].append(int(iteration))
    for decoding, iterations in evaluated.items():
        known = {k: read_by_question(store, "consensus", decoding, k, arm) for k in iterations}
        for k, before, p_value in _find_worse(known, False, LEAST):
            value, earlier = fmean(known[k].values()), fmean(known[before].values())
            yield Concern(
                arm, k, "held_out", before, value, earlier, p_value,
                f"the society of iteration {k} is right on {100 * value:.1f} % of {len(known[k])} "
                f"held-out questions ({decoding}, consensus), that of iteration {before} was on "
                f"{100 * earlier:.1f} %: the tuning makes it worse (p = {p_value:.2g})",
            )  # fmt: skip


def _find_worse(
    known: Mapping[int, Values], up: bool, least: float
) -> Iterator[tuple[int, int, float]]:
    """(iteration, best earlier one, p-value) wherever a mean has risen (`up`), or fallen."""
    best: int | None = None
    change = 0.0
    for k in sorted(known):
        if best is not None:
            # Against the best so far and not the one before: a slow slide would never be a large
            # step.
            change = fmean(known[k].values()) - fmean(known[best].values())
            p_value = _compute_p_value(known[best], known[k])
            if (change if up else -change) >= least and p_value < LEVEL:
                yield k, best, p_value
        if best is None or (change < 0 if up else change > 0):
            best = k


def _compute_p_value(before: Values, after: Values) -> float:
    # Fresh training questions differ from pass to pass; then there are no pairs to compare.
    if before.keys() == after.keys():
        return paired_p_value(list(before.values()), [after[question] for question in before])
    return unpaired_p_value(list(before.values()), list(after.values()))


def _read_passes(store: Store, arm: str) -> dict[int, _Pass]:
    passes: defaultdict[int, _Pass] = defaultdict(_Pass)
    for row in store.rows(_VOTES, {"arm": arm}):
        iteration, question, answer, votes, voters, correct, unparsed, truncated = row
        one = passes[int(iteration)]
        one.covered[question] = float(answer is not None)
        if unparsed is not None:
            one.unparsed[question], one.truncated[question] = unparsed, truncated
        if voters:
            one.share[question] = votes / voters
        # One voter is always unanimous, which says nothing about the society.
        if voters > 1:
            one.unanimous[question] = float(votes == voters)
        if answer is not None:
            one.labels[question] = answer
            if correct is not None:
                one.right[question] = float(correct)
    return dict(passes)
