"""What a chat template makes of a run's conversations, from its text alone: loads no model.

A template may refuse a system message, ignore a variable that it is given, or show earlier answers
otherwise than they were sampled. All of it shows when it renders, before anything is spent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from providers.errors import BadRequest
from providers.local.conversation import render_prompt
from providers.local.thoughts import CHANNEL
from providers.types import Finding, Message, Need

# A block of transformers' own that only marks the text of the answer.
_GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
_ANSWER = "ANSWER"
# Answers with a thought, as models of these templates write them; each begins with its marker.
_THINKING = {
    "<think>": f"<think>\nTHOUGHT\n</think>\n\n{_ANSWER}",
    "[THINK]": f"[THINK]THOUGHT[/THINK]{_ANSWER}",
    "<|channel>": f"<|channel>thought\nTHOUGHT<channel|>{_ANSWER}",
    CHANNEL: f"{CHANNEL}analysis<|message|>THOUGHT<|end|><|start|>assistant"
    f"{CHANNEL}final<|message|>{_ANSWER}",
}


@dataclass(frozen=True, slots=True)
class TemplateText:
    """A chat template that renders as a tokenizer's does; `values` are those of its variables."""

    text: str
    values: Mapping[str, Any]

    def get_chat_template(self) -> str:
        """The template's text."""
        return self.text

    def apply_chat_template(
        self, turns: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, tokenize: bool
    ) -> str:
        """The text of a conversation. Raises jinja2's TemplateError where it is refused."""
        assert not tokenize
        template = _make_environment().from_string(_GENERATION.sub("", self.text))
        return str(
            template.render(
                messages=turns,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.values,
            )
        )


def knows_thoughts(text: str) -> bool:
    """Whether a chat template is that of a model which writes thoughts before its answers."""
    return "enable_thinking" in text or any(marker in text for marker in _THINKING)


def check_template(
    text: str, tokens: Mapping[str, str], arguments: Mapping[str, Any], need: Need
) -> list[Finding]:
    """What a run has to know of the chat template `text`.

    `tokens` are the special tokens that a template names (`bos_token`, …), `arguments` the user's
    values for its variables.
    """
    template = TemplateText(text, {**tokens, **arguments})
    findings = [*_check_arguments(text, arguments), *_check_conversations(template, need)]
    if need.trains_all and all(found.level != "error" for found in findings):
        findings += _check_earlier_answers(template)
    return findings


def _check_arguments(text: str, arguments: Mapping[str, Any]) -> Iterator[Finding]:
    from jinja2 import TemplateError, meta

    try:
        known = meta.find_undeclared_variables(_make_environment().parse(_GENERATION.sub("", text)))
    except TemplateError:
        return
    for name in arguments:
        if name not in known:
            yield Finding(
                "warning",
                f"the chat template does not mention {name}, so it has no effect",
                f"remove {name} from [provider]",
                "template",
            )


def _check_conversations(template: TemplateText, need: Need) -> Iterator[Finding]:
    for messages in need.conversations:
        try:
            render_prompt(template, messages)
        except BadRequest as error:
            directed = messages[0].role == "system"
            remedy = "use an instruct model, or correct its chat template"
            if directed:
                remedy = (
                    "remove society.system_prompt and society.personas, or put their text into a "
                    "file of prompts.task"
                )
            yield Finding("error", str(error), remedy, "template")
            return


def _check_earlier_answers(template: TemplateText) -> Iterator[Finding]:
    """An error if an answer stands otherwise in a later prompt than it was sampled."""
    question = (Message("user", "QUESTION"),)
    answers = [_ANSWER, *(said for mark, said in _THINKING.items() if mark in template.text)]
    prompt = render_prompt(template, question)
    for answer in answers:
        # A prompt that opens the thought leaves only its rest to be sampled.
        opening = next((mark for mark in _THINKING if prompt.rstrip().endswith(mark)), "")
        sampled = answer.removeprefix(opening).lstrip("\n") if opening else answer
        later = (*question, Message("assistant", sampled), Message("user", "UPDATE"))
        if not render_prompt(template, later).startswith(prompt + sampled):
            yield Finding(
                "error",
                "the chat template shows earlier answers otherwise than they were sampled, such as "
                "without their thoughts, so that critics cannot be trained with "
                'datasets.critic_loss = "all"',
                'set datasets.critic_loss = "final"',
                "template",
            )
            return


def _make_environment() -> Any:
    """Jinja as transformers sets it up for chat templates."""
    import json

    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: form
    return environment
