"""The debate's prompts, in one place.

`debate_quoted.txt` and `debate_summarized.txt` open every round after the first (Du et al. 2023,
arXiv 2305.14325, section 2; Subramaniam et al. 2025, arXiv 2501.05707, section 3.1 and appendix),
`summarize.txt` asks the untuned base for the summary. Round 1 sends the task's own prompt. The
built-in base model was trained on exactly these words: changing one means training it again.

Debates and the importer build their conversations with the same functions, so that an imported
debate gets the prompts that a run of this project would have sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from evals.answers.thoughts import split_response
from evals.tasks.base import Task
from providers.types import Message
from society.prompts.templates import PromptName, fill_prompt
from store.records import Turn

NO_RESPONSE = "(no response)"
"""Stands in a conversation for an answer without text, since several servers refuse empty ones."""

ShownThoughts = Literal["hidden", "quoted"]
"""Whether the other agents and the summarizer see an agent's thoughts beside its answer."""


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of a society's prompts.

    `own` are the user's texts in place of the packaged ones (`society.prompts.templates`).
    `system_prompts` open the agents' conversations; agents beyond them take them in turn again.
    The summarizer has none. `earlier` is a conversation that the question continues, if it does; a
    system message at its start follows the agent's own.

    >>> Wording().build_summary_turn("Both say 7.", "State it.").splitlines()[0]
    "A summary of the other agents' solutions:"
    """

    thoughts: ShownThoughts = "hidden"
    system_prompts: tuple[str, ...] = ()
    own: Mapping[PromptName, str] = field(default_factory=lambda: MappingProxyType({}))
    earlier: tuple[Message, ...] = ()

    def open_conversation(self, task: Task, question: str, agent: int) -> tuple[Message, ...]:
        """What the generator of agent `agent` (from 1) is sent in round 1."""
        text = self.own.get("task")
        if text is None:
            asked = task.prompt(question)
        else:
            values = {"question": question, "answer_form": task.answer_form}
            asked = fill_prompt("task", text, values)
        earlier, directed = self.earlier, self.find_system_prompt(agent)
        if directed is not None:
            # One system message at most: many chat templates refuse a second one.
            if earlier and earlier[0].role == "system":
                directed, earlier = f"{directed}\n\n{earlier[0].content}", earlier[1:]
            earlier = (Message("system", directed), *earlier)
        return (*earlier, Message("user", asked))

    def find_system_prompt(self, agent: int) -> str | None:
        """The system prompt of agent `agent` (from 1)."""
        if not self.system_prompts:
            return None
        return self.system_prompts[(agent - 1) % len(self.system_prompts)]

    def build_summary_messages(self, others: Sequence[Turn]) -> tuple[Message, ...]:
        """What the summarizer is sent: the other agents' answers of the round before."""
        return (Message("user", self.build_summary_request([self.show(t) for t in others])),)

    def build_critic_messages(
        self, own: Turn, others: Sequence[Turn], summary: Turn | None, answer_form: str
    ) -> tuple[Message, ...]:
        """What a critic is sent: its agent's own conversation, and the other agents' answers.

        `own` and `others` are the answers of the round before. `summary` is what the summarizer
        wrote about the others; None quotes them word for word. `answer_form` says how to state an
        answer.
        """
        if summary is None:
            update = self.build_quoted_turn([self.show(turn) for turn in others], answer_form)
        else:
            update = self.build_summary_turn(self.show(summary), answer_form)
        # The agent's own response stands here whole: what a model sees of its own earlier thoughts
        # is the rule of its chat template.
        return (
            *(Message(**message) for message in json.loads(own.messages)),
            Message("assistant", _fill_empty(own.response)),
            Message("user", update),
        )

    def show(self, turn: Turn) -> str:
        """A turn as later prompts show it to others: its answer, and its thought if quoted."""
        if self.thoughts == "hidden":
            return _fill_empty(split_response(turn.response).answer)
        parts = (turn.thought or "", turn.response)
        return _fill_empty("\n\n".join(part for part in parts if part))

    def build_quoted_turn(self, solutions: Sequence[str], answer_form: str) -> str:
        """The user turn that shows the other agents' responses word for word."""
        values = {"solutions": _number_solutions(solutions), "answer_form": answer_form}
        return fill_prompt("quoted", self.own.get("quoted"), values)

    def build_summary_turn(self, summary: str, answer_form: str) -> str:
        """The user turn that shows a summary of the other agents' responses."""
        values = {"summary": summary, "answer_form": answer_form}
        return fill_prompt("summarized", self.own.get("summarized"), values)

    def build_summary_request(self, solutions: Sequence[str]) -> str:
        """The user turn that asks the summarizer for a summary."""
        values = {"solutions": _number_solutions(solutions)}
        return fill_prompt("summarize", self.own.get("summarize"), values)


def _fill_empty(response: str) -> str:
    return response if response.strip() else NO_RESPONSE


def _number_solutions(solutions: Sequence[str]) -> str:
    return "\n\n".join(f"Solution {i}:\n{text}" for i, text in enumerate(solutions, start=1))
