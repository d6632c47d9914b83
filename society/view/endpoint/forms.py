"""The models that are served: one society, answering in several ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from society.method.arms import Arm
from society.view.endpoint.refusals import RequestRefused

FULL = "society"


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """One way to answer, by the name of the model that a request asks for.

    `agent` (from 1) answers alone; None lets all agents debate, for `rounds` rounds at most.
    `early_end` ends a debate after the round in which all agents agree.
    """

    model: str
    rounds: int
    early_end: bool = False
    agent: int | None = None

    def to_arm(self, arm: Arm) -> Arm:
        """The arm as it answers in this form, under the form's name."""
        return replace(
            arm,
            name=self.model,
            rounds=self.rounds,
            agents=arm.agents if self.agent is None else 1,
            # Of the run's own debates this says where they may end; here the form alone does.
            early_end="eval" if self.early_end else False,
        )


def list_forms(arm: Arm, distilled: Sequence[str] = ()) -> Mapping[str, AnswerForm]:
    """Every form by its name; the whole debate first, and the `distilled` models last.

    These stand behind the arm's agents in the served society, in this order.

    >>> list(list_forms(main_arm(load_config("demo"))))[:3]
    ['society', 'society:fast', 'society:round1']
    """
    # The list's first entry is what programs with no choice of their own take.
    forms = [
        AnswerForm(FULL, arm.rounds),
        AnswerForm(f"{FULL}:fast", arm.rounds, early_end=True),
        AnswerForm(f"{FULL}:round1", 1),
        *(AnswerForm(f"{FULL}:agent-{n}", 1, agent=n) for n in range(1, arm.agents + 1)),
    ]
    found = {form.model: form for form in forms}
    for place, name in enumerate(distilled, start=arm.agents + 1):
        # A model that was called "fast" must not take the place of a form of that name.
        found.setdefault(f"{FULL}:{name}", AnswerForm(f"{FULL}:{name}", 1, agent=place))
    return found


def refuse_model(name: str, forms: Mapping[str, AnswerForm]) -> RequestRefused:
    """What a request for a model is told that is not served."""
    return RequestRefused(
        404,
        f"there is no model {name[:80]!r} here; there are {', '.join(forms)}",
        code="model_not_found",
        param="model",
    )
