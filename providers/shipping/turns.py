"""What a chat template writes around the messages of a conversation, found by rendering.

Engines that do not read Jinja need this: a prefix and a suffix for each role, what begins a
conversation, and what asks for an answer. Templates that are not so regular have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

Role = str
Conversation = Sequence[tuple[Role, str]]
Render = Callable[[Conversation, bool], str]
"""The template's text for a conversation; the flag asks for an answer at its end."""

# Words that no template has, so that their places in the text are certain.
_A, _B, _C, _S = "Qaqa1Qa", "Wbwb2Wb", "Ecec3Ec", "Rsrs4Rs"
_TRIED: tuple[tuple[Role, ...], ...] = (
    ("user",),
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user"),
)


@dataclass(frozen=True, slots=True)
class TurnFormat:
    """`around` has the text before and after the content of each role; `start` begins every
    conversation, `default` follows it in one without a system message.

    >>> format = TurnFormat("", {"user": ("<u>", "\n")}, "<a>")
    >>> format.write([("user", "2+2?")])
    '<u>2+2?\n<a>'
    """

    start: str
    around: Mapping[Role, tuple[str, str]]
    ask: str
    default: str = ""

    def write(self, conversation: Conversation) -> str:
        """The whole prompt, which asks for an answer."""
        turns = "".join(
            f"{self.around[role][0]}{content}{self.around[role][1]}"
            for role, content in conversation
        )
        default = "" if conversation[0][0] == "system" else self.default
        return f"{self.start}{default}{turns}{self.ask}"


def find_turns(render: Render) -> TurnFormat | None:
    """The format of a template, if it writes every conversation of these roles so; else None.

    Conversations of up to five messages are compared byte for byte, with a system message if the
    template takes one.
    """
    try:
        found = _split_texts(render)
    except ValueError:
        return None
    if found is None or not _is_same(found, render, _TRIED):
        return None
    try:
        render([("system", _S), ("user", _A)], False)
    # Templates without a system message raise errors of their own.
    except Exception:
        return found
    # One that takes a system message must not lose it.
    return _add_system(found, render)


def _split_texts(render: Render) -> TurnFormat | None:
    """Raises ValueError where a word is missing in the text."""
    question = render([("user", _A)], False)
    asked = render([("user", _A)], True)
    # A template may also write earlier messages otherwise when an answer is asked for.
    if not asked.startswith(question):
        return None
    ask = asked.removeprefix(question)
    opening, after_user = _cut(question, _A)
    both = render([("user", _A), ("assistant", _B)], False)
    _, rest = _cut(both, _A)
    between, after_assistant = _cut(rest, _B)
    whole = render([("user", _A), ("assistant", _B), ("user", _C)], False)
    _, rest = _cut(whole, _B)
    next_opening, _ = _cut(rest, _C)
    if not (between.startswith(after_user) and next_opening.startswith(after_assistant)):
        return None
    before_user = next_opening.removeprefix(after_assistant)
    if not opening.endswith(before_user):
        return None
    # What stands between two messages is the end of one and the beginning of the other.
    around = {
        "user": (before_user, after_user),
        "assistant": (between.removeprefix(after_user), after_assistant),
    }
    return TurnFormat(opening.removesuffix(before_user), around, ask)


def _add_system(found: TurnFormat, render: Render) -> TurnFormat | None:
    try:
        opening, rest = _cut(render([("system", _S), ("user", _A)], False), _S)
        between, _ = _cut(rest, _A)
    except ValueError:
        return None
    before_user = found.around["user"][0]
    if not between.endswith(before_user):
        return None
    # What differs after the common start is a system message of the template's own.
    start = _find_common_start(opening, found.start)
    added = TurnFormat(
        start,
        {
            "system": (opening.removeprefix(start), between.removesuffix(before_user)),
            **found.around,
        },
        found.ask,
        found.start.removeprefix(start),
    )
    tried = [("system", *roles) for roles in _TRIED]
    return added if _is_same(added, render, [*_TRIED, *tried]) else None


def _find_common_start(one: str, other: str) -> str:
    same = takewhile(lambda letters: letters[0] == letters[1], zip(one, other, strict=False))
    return "".join(letter for letter, _ in same)


def _is_same(found: TurnFormat, render: Render, tried: Sequence[Sequence[Role]]) -> bool:
    for roles in tried:
        conversation = [(role, f"word {number} of {role}") for number, role in enumerate(roles)]
        if found.write(conversation) != render(conversation, True):
            return False
    return True


def _cut(text: str, word: str) -> tuple[str, str]:
    before, mark, after = text.partition(word)
    if not mark:
        raise ValueError(f"the template leaves {word} out")
    return before, after
