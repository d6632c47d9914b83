"""What an experiment will cost, from its file alone: no key, no network, no call.

Every stage of the loop is counted: debates whose prompts grow round by round (an agent's own
earlier turns, then the others' answers or a summary of them), the summaries, two fine-tuning jobs
per agent and iteration, the evaluation of every society on every task with every decoding, and the
likelihoods that diversity measures need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from evals.tasks.base import Task, TaskQuestion
from finetune.datasets import SHARED_AGENT
from providers.pricing import Prices, TokenPrice
from society.costs import lengths
from society.costs.deployments import DeploymentFee, list_fees
from society.costs.examples import count_examples
from society.costs.lengths import MESSAGE, NOTHING, PROMPT, Range
from society.costs.scored_texts import REQUESTS_PER_TEXT, count_scored_texts
from society.costs.storage import StorageFee, list_storage_fees
from society.method.arms import Arm, is_tuned
from society.method.experiment import Experiment
from society.method.finetuning import SHAPES, list_tuned_models
from store.records import AgentRole

Role = Literal["generator", "critic", "summarizer"]

_LATER_ROUNDS = "later rounds"
_NEVER_BATCHED = ("labels", "debate", "finetune", "diversity")


@dataclass(frozen=True, slots=True)
class CostLine:
    """One row of the estimate: all calls, or jobs, of one role of one model in one stage.

    `arm` is None for calls that all arms share, and if there is only one arm. `model` is an
    address; `tuned` means the models tuned from it. Tokens are sums over all calls; `trained`
    counts every epoch. `usd` is None if a price is unknown.
    """

    stage: str
    role: Role
    model: str
    tuned: bool
    calls: Range
    prompt: Range = NOTHING
    completion: Range = NOTHING
    trained: Range = NOTHING
    usd: Range | None = None
    arm: str | None = None


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """All lines, and the prices they were computed with (those that are known). The hourly fees of
    `deployments` and `storage` are not part of the lines, since hours and sizes are not known."""

    lines: tuple[CostLine, ...]
    prices: tuple[TokenPrice, ...]
    deployments: tuple[DeploymentFee, ...] = ()
    storage: tuple[StorageFee, ...] = ()

    @property
    def usd(self) -> Range | None:
        """The cost of the whole experiment; None if a price is unknown."""
        known = [line.usd for line in self.lines if line.usd is not None]
        return lengths.sum_ranges(known) if len(known) == len(self.lines) else None

    @property
    def addresses_without_price(self) -> tuple[str, ...]:
        """Addresses whose price, or the price of their tuned models or training, is unknown."""
        return tuple(dict.fromkeys(line.model for line in self.lines if line.usd is None))


def estimate_cost(
    experiment: Experiment, answer_tokens: int | None = None, summary_tokens: int | None = None
) -> CostEstimate:
    """Estimate the cost of a whole experiment.

    `answer_tokens` and `summary_tokens` are the usual lengths, if the user knows them. High bounds
    what can be spent if the vendor bills no failed attempts. Raises ValueError if a
    task cannot load its questions.

        estimate_cost(load_experiment("paper-openai"), answer_tokens=300).usd
    """
    estimator = _Estimator(experiment, answer_tokens, summary_tokens)
    return replace(
        _sum_lines(estimator, (line for _, line in estimator.lines())),
        deployments=list_fees(experiment.config, experiment.arms),
        storage=list_storage_fees(experiment.config, experiment.arms),
    )


def estimate_questions(
    experiment: Experiment,
    arm: Arm,
    asked: Sequence[TaskQuestion],
    *,
    tuned: bool,
    student: Arm | None = None,
) -> CostEstimate:
    """Estimate what it costs that `arm`, tuned or not, debates `asked`; and that `student` learns
    from that and is evaluated."""
    estimator, task = _Estimator(experiment, None, None), experiment.questions.task
    lines = [*estimator.debates("debate" if student else "evaluate", task, asked, arm, tuned)]
    if student is not None:
        lines += estimator.jobs(task, asked, student, student.iterations)
        lines += estimator.evaluation(student.iterations, [student])
    return _sum_lines(estimator, lines)


def _sum_lines(estimator: _Estimator, counted: Iterable[CostLine]) -> CostEstimate:
    """The lines by stage and model: iterations, agents and decodings are summed."""
    config = estimator.config
    merged: dict[tuple[str | None, str, str, str, bool], CostLine] = {}
    for line in counted:
        key = line.arm, line.stage, line.role, line.model, line.tuned
        merged[key] = _add_lines(merged[key], line) if key in merged else line
    found = (
        estimator.prices.at(address, tuned=tuned)
        for address in config.addresses
        for tuned in ((False, True) if is_tuned(config, address) else (False,))
    )
    stages = list(dict.fromkeys(line.stage for line in merged.values()))
    lines = sorted(merged.values(), key=lambda line: stages.index(line.stage))
    return CostEstimate(
        tuple(estimator.add_cost(line) for line in lines),
        tuple(price for price in found if price is not None),
    )


def list_lines_by_iteration(experiment: Experiment) -> Iterator[tuple[int, CostLine]]:
    """The lines of every iteration in the order of the loop, without prices; 0 is the untuned
    society's evaluation."""
    return _Estimator(experiment, None, None).lines()


class _Estimator:
    def __init__(
        self, experiment: Experiment, answer_tokens: int | None, summary_tokens: int | None
    ) -> None:
        self.config = config = experiment.config
        self.prices = Prices(config.prices)
        self.questions = experiment.questions
        self.wording = config.wording
        self.arms = experiment.arms
        section = config.sampling
        # What others read of an agent's answer is bounded by the longest that any agent may give.
        self.answer = lengths.estimate_answer(section.longest, answer_tokens)
        self.answers = tuple(
            lengths.estimate_answer(own.max_tokens, answer_tokens)
            for own in section.by_agent or (section,)
        )
        self.summary = lengths.estimate_answer(section.summary_max_tokens, summary_tokens)

    def lines(self) -> Iterator[tuple[int, CostLine]]:
        """Every line with its iteration. Calls that untuned arms share count once."""
        # Iteration 0 evaluates the untuned society, whose answers all arms share.
        for line in self.evaluation(0, _merge_untuned(self.arms)):
            yield 0, line
        for iteration in range(1, self.config.iterations + 1):
            for line in self._iterate(iteration):
                yield iteration, line

    def _iterate(self, iteration: int) -> Iterator[CostLine]:
        # Where votes decide what comes, the longest questions that may come bound the cost.
        task, asked = max(
            self.questions.foresee(iteration),
            key=lambda each: sum(len(question.text) for question in each[1]),
        )
        trained = [arm for arm in self.arms if arm.trained_in(iteration)]
        training = [replace(arm, agents=arm.train_agents) for arm in trained]
        yield from self._label_votes(task, asked, trained, iteration)
        # In the first iteration every arm still debates with the untuned models.
        for arm in _merge_untuned(training) if iteration == 1 else training:
            yield from self.debates("debate", task, asked, arm, iteration > 1)
        for arm in trained:
            yield from self.jobs(task, asked, arm, iteration)
        yield from self.evaluation(iteration, trained)

    def _label_votes(
        self, task: Task, asked: Sequence[TaskQuestion], arms: Sequence[Arm], iteration: int
    ) -> Iterator[CostLine]:
        """The first answers that only vote on labels; untuned ones are shared by all arms."""
        for arm in _list_label_voters(arms, iteration):
            voting = replace(arm, agents=arm.train_agents, rounds=1)
            times, tuned = len(arm.samples), _is_label_tuned(arm, iteration)
            for line in self.debates("labels", task, asked, voting, tuned):
                yield replace(
                    line,
                    calls=line.calls * times,
                    prompt=line.prompt * times,
                    completion=line.completion * times,
                )

    def evaluation(self, iteration: int, arms: Sequence[Arm]) -> Iterator[CostLine]:
        for each in self.questions.evaluation_sets:
            asked = each.questions()
            for arm in arms:
                for decoding in arm.decodings(self.config.evaluation.decodings):
                    yield from self.debates(each.stage, each.task, asked, arm, iteration > 0)
                    if not each.is_extra:
                        yield from self._diversity(each.task, asked, arm, decoding, iteration > 0)

    def debates(
        self, stage: str, task: Task, asked: Sequence[TaskQuestion], arm: Arm, tuned: bool
    ) -> Iterator[CostLine]:
        name = arm.name if tuned and len(self.arms) > 1 else None
        for number in range(1, arm.agents + 1):
            opening = lengths.sum_ranges(self._measure_openings(task, asked, number))
            answer = self.answers[(number - 1) % len(self.answers)]
            for place, context in enumerate(self._contexts(task, arm), start=1):
                if place == 1 and arm.name == _LATER_ROUNDS:
                    continue
                line = CostLine(
                    stage=stage,
                    role="generator" if place == 1 else "critic",
                    model=self.config.base_address(number),
                    tuned=tuned,
                    calls=lengths.exactly(len(asked)),
                    prompt=opening + context * len(asked),
                    completion=answer * len(asked),
                    arm=name,
                )
                yield line if place == 1 else _allow_early_end(line, arm)
        # The summarizer is never tuned, and writes one summary per agent and later round.
        if arm.others == "summarized" and arm.rounds > 1:
            calls = len(asked) * arm.agents * (arm.rounds - 1)
            shown = lengths.estimate_text(
                self.wording.build_summary_request([""] * (arm.agents - 1))
            )
            line = CostLine(
                stage=stage,
                role="summarizer",
                model=self.config.model,
                tuned=False,
                calls=lengths.exactly(calls),
                prompt=(PROMPT + MESSAGE + shown + self._others(arm)) * calls,
                completion=self.summary * calls,
                arm=name,
            )
            yield _allow_early_end(line, arm)

    def _diversity(
        self, task: Task, asked: Sequence[TaskQuestion], arm: Arm, decoding: str, tuned: bool
    ) -> Iterator[CostLine]:
        """Each text is sent twice, alone and with its conversation, for one token each time."""
        if not self.config.diversity.measures:
            return
        contexts = self._contexts(task, arm)
        roles: list[tuple[AgentRole, Range]] = []
        if arm.name != _LATER_ROUNDS:
            roles.append(("generator", contexts[0]))
        if arm.rounds > 1:
            roles.append(("critic", contexts[-1]))
        looked_at = min(self.config.diversity.questions, len(asked))
        openings = self._measure_openings(task, asked, None)
        for role, context in roles:
            text = MESSAGE + lengths.estimate_reread(self.answer)
            count = lengths.exactly(looked_at)
            both = _sum_examples(openings, context, count) + _sum_examples(
                openings, context + text, count
            )
            for (model, tuned_model), texts in count_scored_texts(
                self.config, arm, role, decoding, tuned=tuned
            ).items():
                requests = lengths.exactly(REQUESTS_PER_TEXT * looked_at * texts)
                if self._is_free(model, tuned_model):
                    continue
                line = CostLine(
                    stage="diversity",
                    role=role,
                    model=model,
                    tuned=tuned_model,
                    calls=requests,
                    prompt=both * texts,
                    completion=requests,
                    arm=arm.name if tuned and len(self.arms) > 1 else None,
                )
                yield line if role == "generator" else _allow_early_end(line, arm)

    def _is_free(self, model: str, tuned: bool) -> bool:
        price = self.prices.at(model, tuned=tuned)
        return price is not None and price.is_free

    def _contexts(self, task: Task, arm: Arm) -> list[Range]:
        """Tokens around the question's own prompt in one call of each round."""
        if arm.others == "summarized":
            shown = lengths.estimate_text(self.wording.build_summary_turn("", task.answer_form))
            shown += lengths.estimate_reread(self.summary)
        else:
            shown = lengths.estimate_text(
                self.wording.build_quoted_turn([""] * (arm.agents - 1), task.answer_form)
            )
            shown += self._others(arm)
        # Each round repeats the whole conversation so far and adds an answer and a quotation.
        contexts = [PROMPT + MESSAGE]
        for _ in range(1, arm.rounds):
            own = MESSAGE + lengths.estimate_reread(self.answer)
            contexts.append(contexts[-1] + own + MESSAGE + shown)
        return contexts

    def _measure_openings(
        self, task: Task, asked: Sequence[TaskQuestion], agent: int | None
    ) -> list[Range]:
        """Tokens that open the conversation of an agent, or of that with the longest system prompt,
        for each question."""
        wording = self.wording
        if agent is None:
            count = len(wording.system_prompts) or 1
            agent = max(range(1, count + 1), key=lambda n: len(wording.find_system_prompt(n) or ""))
        return [
            lengths.sum_ranges(
                lengths.estimate_text(message.content) + MESSAGE * (message.role == "system")
                for message in wording.open_conversation(task, question.text, agent)
            )
            for question in asked
        ]

    def _others(self, arm: Arm) -> Range:
        return lengths.estimate_reread(self.answer) * (arm.agents - 1)

    def jobs(
        self, task: Task, asked: Sequence[TaskQuestion], arm: Arm, iteration: int
    ) -> Iterator[CostLine]:
        contexts = self._contexts(task, arm)
        for agent, role in list_tuned_models(arm):
            # A model of all agents is trained on the answers of all.
            pooled = agent == SHARED_AGENT and arm.data != "matched"
            speakers = arm.train_agents if pooled else 1
            count = count_examples(self.config, arm, agent, role, len(asked), iteration)
            openings = self._measure_openings(task, asked, agent or None)
            context = contexts[0 if role == "generator" else -1]
            rest = context + MESSAGE + lengths.estimate_reread(self.answer)
            section = self.config.for_arm(arm.name).finetune
            epochs = section.generator_epochs if role == "generator" else section.critic_epochs
            answers = 2 if SHAPES[section.objective] == "pairs" else 1
            examples = _sum_examples(openings, rest, count) * answers
            yield CostLine(
                stage="finetune",
                role=role,
                model=self.config.base_address(agent),
                tuned=False,
                calls=lengths.exactly(1),
                trained=examples * (epochs * speakers),
                arm=arm.name if len(self.arms) > 1 else None,
            )

    def add_cost(self, line: CostLine) -> CostLine:
        """The line with its cost in USD.

        An agent whose model could not be tuned keeps its base model, so the range of a tuned
        model covers the prices of both.
        """
        own = self.prices.at(line.model, tuned=line.tuned)
        base = self.prices.at(line.model, tuned=False)
        # A line counts as unpriced rather than as free, or a cap would be set too low.
        if own is None or base is None or (line.trained.high and base.training_usd is None):
            return replace(line, usd=None)
        # Training debates and scores need their answers at once, so they are not batched.
        batched = self.config.evaluation.batch and line.stage not in _NEVER_BATCHED
        share = (own.batch_factor or 1.0) if batched else 1.0
        both = [_price_tokens(line, price) * share for price in (own, base)]
        return replace(
            line,
            usd=Range(
                min(usd.low for usd in both), both[0].expected, max(usd.high for usd in both)
            ),
        )


def _allow_early_end(line: CostLine, arm: Arm) -> CostLine:
    """`line`, of rounds that are not held once all agents agree; how often they do is unknown."""
    if not arm.ends_early("train" if line.stage == "debate" else "eval"):
        return line
    calls, prompt, completion = (
        replace(each, low=0.0) for each in (line.calls, line.prompt, line.completion)
    )
    return replace(line, calls=calls, prompt=prompt, completion=completion)


def _merge_untuned(arms: Sequence[Arm]) -> list[Arm]:
    """The calls of untuned arms together: the largest first round, and each kind of debate once.

    A compute-matched vote that is sized by tokens counts as if it were sized by calls.
    """
    if not arms:
        return []
    # A vote that is matched by tokens changes its size during the run, so it comes last.
    largest = max(arms, key=lambda arm: (not arm.matched_to, arm.agents))
    firsts = [replace(largest, rounds=1)]
    sampled = max(arms, key=lambda arm: arm.agents)
    if sampled.agents > largest.agents:
        firsts.append(replace(sampled, agents=sampled.agents - largest.agents, rounds=1))
    debates: dict[tuple[int, str], Arm] = {}
    # The last one counts: that with most rounds, and with all of them held.
    for arm in sorted(arms, key=lambda arm: (arm.rounds, not arm.early_end)):
        if arm.rounds > 1:
            debates[arm.agents, arm.others] = replace(arm, name=_LATER_ROUNDS)
    return [*firsts, *debates.values()]


def _list_label_voters(arms: Sequence[Arm], iteration: int) -> list[Arm]:
    """The arms that ask for votes on labels; of those whose untuned models vote, the largest."""
    asking = [arm for arm in arms if arm.samples]
    untuned = [arm for arm in asking if not _is_label_tuned(arm, iteration)]
    untuned.sort(key=lambda arm: len(arm.samples) * arm.train_agents)
    return [*untuned[-1:], *(arm for arm in asking if arm not in untuned)]


def _is_label_tuned(arm: Arm, iteration: int) -> bool:
    """Whether the society that labels in this iteration has been tuned already."""
    return iteration - 1 > (arm.lag or 0)


def _sum_examples(openings: Sequence[Range], rest: Range, count: Range) -> Range:
    """Tokens of `count` examples; the bound takes those of the longest questions."""
    mean = lengths.sum_ranges(openings) * (1 / len(openings))
    # Which questions become examples, and which of them are repeated, is unknown, so the bound
    # takes the longest.
    longest = sorted((opening.high for opening in openings), reverse=True)
    repeats = max(0, int(count.high) - len(longest))
    return Range(
        count.low * (mean.low + rest.low),
        count.expected * (mean.expected + rest.expected),
        sum(longest[: int(count.high)]) + repeats * longest[0] + count.high * rest.high,
    )


def _price_tokens(line: CostLine, price: TokenPrice) -> Range:
    return (
        line.prompt * price.input_usd
        + line.completion * price.output_usd
        + line.trained * (price.training_usd or 0.0)
    ) * 1e-6


def _add_lines(a: CostLine, b: CostLine) -> CostLine:
    return replace(
        a,
        calls=a.calls + b.calls,
        prompt=a.prompt + b.prompt,
        completion=a.completion + b.completion,
        trained=a.trained + b.trained,
    )
