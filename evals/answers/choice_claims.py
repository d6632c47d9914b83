r"""Which of several lettered choices a sentence chooses, which it rules out.

"Option B is incorrect" names B and chooses nothing; "B is wrong, which leaves C" chooses C. A
letter counts as chosen only where the words say so and nothing around it denies it: a false vote
is worse than none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from evals.answers import choice_patterns as patterns


@dataclass(frozen=True, slots=True)
class ChoiceClaims:
    """`chosen` holds what is asserted, in order: a letter, or several together that are chosen as
    one ("both A and C"). `ruled_out` are the letters that something denies; `named` all of them."""

    chosen: tuple[str, ...]
    ruled_out: frozenset[str]
    named: frozenset[str]

    asserts: bool = False
    """Whether a verb chooses: more than a letter alone."""

    @property
    def letter(self) -> str | None:
        """The only letter that is chosen and nowhere ruled out."""
        distinct = set(self.chosen)
        if len(distinct) != 1:
            return None
        (only,) = distinct
        return only if len(only) == 1 and only not in self.ruled_out else None


def find_claims(text: str) -> ChoiceClaims:
    """What a line or sentence in plain characters chooses and rules out. Linear time."""
    lists: list[str] = []
    text = patterns.DOTS.sub(" — ", patterns.INTERJECTION.sub(" ", text))
    text = patterns.AGREEMENT.sub(
        "", patterns.ELIMINATION.sub("", patterns.AGENTS.sub("agents", text))
    )
    text = " ".join(text.split())

    def marked(found: re.Match[str]) -> str:
        if _is_article(text, found):
            return found[0]
        groups = _group_letters(text, found)
        lists.extend(groups)
        first = len(lists) - len(groups)
        return ", ".join(f"⟨{number}⟩" for number in range(first, len(lists)))

    named = patterns.ASIDE.sub(" ", patterns.LETTER_LIST.sub(marked, text))
    named = patterns.THEREFORE.sub(r"\1 ", patterns.NOT_RULED_OUT.sub("only remaining one", named))
    named = patterns.EXCEPTION.sub(_resolve_exception, named)
    ruled_out: set[str] = set()

    def drop(found: re.Match[str]) -> str:
        for number in patterns.MARK.findall(found[0]):
            ruled_out.update(lists[int(number)])
        return " "

    # A question asserts nothing, and letters that are only set aside are ruled out before weighing.
    rest = patterns.NOT_BUT.sub(drop, patterns.QUESTION.sub(" ", named))
    rest = " ".join(patterns.DROPPED.sub(drop, rest).split())
    chosen, asserts = _weigh_clauses(_split_clauses(rest), lists, ruled_out)
    letters = frozenset(letter for listed in lists for letter in listed)
    return ChoiceClaims(tuple(chosen), frozenset(ruled_out), letters, asserts)


def _weigh_clauses(
    clauses: list[str], lists: list[str], ruled_out: set[str]
) -> tuple[list[str], bool]:
    """What the clauses choose, and whether a verb does; what they deny goes to `ruled_out`."""
    chosen: list[str] = []
    spoken_of: list[int] = []
    asserts = False
    before = ""
    for clause in clauses:
        numbers = [int(number) for number in patterns.MARK.findall(clause)]
        # "B fits. But that is wrong.": a clause without a letter judges the letters of the clause
        # before.
        of_it = patterns.JUDGES_LAST_LETTER.match(clause) and patterns.NEGATIVE.search(clause)
        if not numbers and (of_it or patterns.BARE_NO.match(clause)):
            ruled_out.update(letter for number in spoken_of for letter in lists[number])
        elif numbers and patterns.NEGATIVE.search(clause):
            ruled_out.update(letter for number in numbers for letter in lists[number])
        elif numbers and not patterns.SUPPOSED.search(patterns.I_WOULD.sub("I ", clause)):
            for pattern in patterns.ASSERTED:
                found = [lists[int(mark["at"][1:-1])] for mark in pattern.finditer(clause)]
                asserts = asserts or bool(found)
                chosen.extend(found)
            # A letter alone chooses only at the start or behind a connective: in a list it is just
            # named.
            alone = patterns.LETTER_ALONE.match(clause)
            if alone and (
                not before or patterns.LEAD.fullmatch(before) or patterns.LEAD.match(clause)
            ):
                chosen.append(lists[int(alone["at"][1:-1])])
        spoken_of = numbers or spoken_of
        before = "" if numbers else clause
    return chosen, asserts


def _resolve_exception(found: re.Match[str]) -> str:
    """ "C remains" for "all but C are wrong" and "none but C fits"; else what was there."""
    fits, denied = patterns.FITS.match(found["said"]), patterns.NEGATIVE.search(found["said"])
    nothing = found["quantity"].lower() in ("none", "nothing", "no")
    holds = (fits and not denied) if nothing else denied
    return f"{found['at']} remains" if holds else found[0]


def _group_letters(text: str, found: re.Match[str]) -> list[str]:
    """The letters of a list, as one group where the sentence is about all of them at once.

    "Unlike B, C is" and "C, and B is" make two groups; "C and D, D is" names D once more.
    """
    letters = [
        re.sub(r"\W", "", letter).upper() for letter in patterns.SINGLE_LETTER.findall(found[0])
    ]
    before = text[max(0, found.start() - 20) : found.start()]
    if patterns.CONTRAST_BEFORE.search(before) and not re.search(
        r"\b(?:and|or|nor)\b", found[0], re.IGNORECASE
    ):
        return [letters[0], "".join(letters[1:])] if len(letters) > 1 else letters
    groups = [""]
    for letter in letters:
        if letter in groups[-1]:
            groups.append("")
        groups[-1] += letter
    apart = re.search(r",\s?and\s\S*$", found[0]) and patterns.VERB_AFTER_LETTER.match(
        text, found.end()
    )
    if apart and len(groups) == 1 and len(letters) == 2:
        return letters
    return groups


def _is_article(text: str, found: re.Match[str]) -> bool:
    """Whether a bare letter is a word of the sentence: "A dog", "vitamin C", "I think"."""
    listed = found[0]
    if listed[:1] in "([\"“'‘" or not found["first"][:1].isupper() or len(found["first"]) > 1:
        return False
    if listed == "I":
        return True
    before = text[max(0, found.start() - 24) : found.start()]
    return not (
        patterns.BEFORE_LETTER.search(before) and patterns.AFTER_LETTER.match(text, found.end())
    )


def _split_clauses(text: str) -> list[str]:
    return [
        clause.strip() for clause in patterns.CLAUSE_BREAK.split(text) if clause and clause.strip()
    ]
