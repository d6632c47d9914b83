"""Answers that the words around them take back: "if the answer is 5", "12, but that is wrong"."""

from __future__ import annotations

import re

# Characters before and after an answer that are looked at: a sentence or so. Bounding them keeps
# every search linear.
_AROUND = 90

# "not quite right", "a mistake", "our final answer" after "is not".
_DENIED = (
    r"(?:\w{1,10}\s){0,2}?(?:wrong|incorrect|false|invalid|impossible|mistaken|untrue|a\smistake"
    r"|an\serror|not\s(?:\w{1,10}\s)?(?:right|correct|possible|true|valid|it\b"
    r"|(?:the|our|my)\s(?:\w{1,10}\s)?(?:answer|solution|result|choice)))"
)
_IS = (
    r"(?:is|was|are|were|would\sbe|seems|looks|must\sbe|(?:isn|wasn|can)['’]t(?:\sbe)?"
    r"|cannot\sbe)"
)
BREAKS_CONDITION = (
    r"(?:contradicts|violates)\s(?:the\s(?:text|passage|condition|question|problem|statement|given"
    r"|data|constraint|requirement|definition)|our|what)"
)
"""Says of an answer that it breaks what the question gives."""

# What follows right after an answer and takes it back: "12. Wait, that is wrong", "12, but this
# doesn't work", "12. I made a mistake". First the closing signs of the answer, then interjections,
# then one of the ways to deny.
_AFTER = re.compile(
    rf"""
    [\s.!)*$”"\]}}]{{0,8}}
    (?: [,;:—–-]?\s? (?:oh|hmm+|wait|no|but|hold\son|actually|oops|however|and|sorry|though)
        [\s,.!…—–-]{{1,5}} ){{0,4}}
    (?: [,;—–-]?\s? (?:that|this|it|which|the\sabove) (?:['’]s | \s{_IS}) \s {_DENIED}
      | [,;—–-]?\s? (?:that|this|it|which)\s(?:is|was)n['’]t\s(?:quite\s)?(?:right|correct|it\b)
      | {_IS}\s{_DENIED}
      | (?:[,;—–-]?\s?(?:that|this|it|which)\s)?
        (?:can(?:['’]t|not|\snot)|could(?:n['’]t|\snot)|must\snot|may\snot)
        \sbe\s(?:\w{{1,10}}\s)?
        (?:right|correct|true|possible|it\b|the\s(?:\w{{1,10}}\s)?(?:answer|result|solution))
      | [,;—–-]?\s? (?:wait|no|but|hmm+|however|though|actually|hold\son) [\s,.!…—–-]{{1,5}}
        (?:that|this|it|which) \s (?: {BREAKS_CONDITION}
          | (?:doesn['’]t|does\snot|can['’]t|cannot)\s(?:(?:quite|really)\s)?
            (?:work|fit|match|hold|satisfy|add\sup|make\ssense|seem\sright|look\sright)
          | makes\sno\ssense | (?:seems|looks|is)\s(?:off|wrong|too\s\w+) )
      | (?:isn|wasn)['’]t\s(?:right|correct|the\s(?:right|correct)|possible)
      | (?:I|we)\s(?:(?:have\s)?made\s(?:an?|the)\s(?:\w{{1,12}}\s)?(?:mistake|error)
                     |miscalculated|misread|messed\sup
                     |forgot|overlooked|missed)
      | scratch\sthat | strike\sthat | my\smistake )
    """,
    re.VERBOSE | re.IGNORECASE,
)
# "not \boxed{5}", "instead of $\boxed{5}$".
_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|instead\sof|rather\sthan|unlike|neither|nor|cannot)|n['’]t)"
    r"(?:\s(?:be|equal(?:\sto)?|have\sbeen|the))?[\s$(*\\\[{]*$",
    re.IGNORECASE,
)
_THE = r"(?:that\s)?(?:(?:the|my|our|your|an?|its)\s)?(?:\w{1,10}\s){0,2}?"
# What stands before "the answer is 5" and makes it no answer of this response: an adjective ("the
# wrong"), another owner ("agent 2's"), a condition ("if"), a denied thought ("I don't think that"),
# a report ("according to", "some might say that", "they found").
_SUPPOSED_BEFORE = re.compile(
    rf"""
    (?: \b(?:wrong|incorrect|false|invalid|initial|original|previous|earlier|mistaken|tempting
          |common|popular|naive|na[iï]ve)\s
      | (?:\b(?:their|his|her)
          |\b(?:agent|solution|response|model|assistant|student|classmate|friend|peer|colleague
            |teacher|professor|textbook|book|user|majority)s?(?:\s\w{{1,10}})?['’]s?)
        \s(?:\w{{1,20}}\s)?
      | \b(?:if|whether|unless|suppose|supposing|assume|assuming|imagine)\s{_THE}
      | (?:n['’]t|\bnot|\bnever|\bcannot)\s(?:\w{{1,10}}\s){{0,2}}?
        (?:think|believe|agree|say|mean|conclude|claim|true|clear|case|convinced)
        \s(?:with\s(?:\w{{1,10}}\s){{1,3}})?{_THE}
      | \baccording\sto\s(?:(?:the|an?)\s)?
        (?:other\s|another\s|first\s|second\s|third\s|previous\s)?
        (?:agents?|solutions?|responses?|models?|assistants?|students?|him|her|them|others)
        (?:\s\#?\d{{1,2}})?,?\s{_THE}
      | \b(?:at\sfirst(?:\s(?:glance|sight|look))?|on\sthe\ssurface|initially
          |na[iï]vely|superficially)
        ,?\s(?:(?:the|my|our)\s)?(?:(?:correct|right|obvious|final)\s)?
      | \b(?:one|you|people|students?|someone|somebody|anyone|many|some|most|readers?)
        \s(?:might|may|could|would|will)\s(?:\w{{1,10}}\s){{0,2}}?
        (?:think|assume|guess|believe|say|argue|suppose|expect|suspect)\s{_THE}
      | \b(?:disagree|doubt|wrong|incorrect|mistaken|false)\s(?:with\s(?:\w{{1,10}}\s){{1,3}})?
        that\s{_THE}
      | \b(?:(?:agent|solution|response|model|assistant|student)\s?(?:\#?\d{{1,2}}|one|two|three)
          |(?:other|another|first|second|third|previous)
           \s(?:agents?|solutions?|responses?|models?|assistants?|students?)
          |he|she|they|others|someone|some(?:\speople)?)
        \s(?:\w{{1,10}}\s){{0,2}}?
        (?:says?|said|claims?|claimed|thinks?|thought|argues?|argued|believes?|believed|states?
           |stated|concludes?|concluded|suggests?|suggested|insists?|got|gets?|found|finds?)
        \s{_THE} ) $
    """,
    re.VERBOSE | re.IGNORECASE,
)
# "5, which cannot be right": the doubt stands in the answer's own sentence.
_DOUBTED_INSIDE = re.compile(
    rf"\b(?:but|which|though|however|although)\b[^.\n]{{0,30}}?\b(?:{_IS}\s{_DENIED}"
    r"|(?:can(?:['’]t|not)|couldn['’]t)\sbe\s(?:\w{1,10}\s)?(?:right|correct|true)\b)",
    re.IGNORECASE,
)
# A short value that takes the place of the answer before it: "Wait, it is actually 13.". It must
# end its sentence and have at most three words, so that "No, 13 of them are left." corrects
# nothing.
_CORRECTION = re.compile(
    r"""
    (?<!\w) (?: (?:wait|no|oops|sorry|correction|hold\son|hmm+|scratch\sthat|my\smistake|i\smean
                  |or\srather) \s? [,:;.!…—–-]{1,3} \s{1,3}
              | (?:actually|make\s(?:it|that)|i\smean|or\srather) [,:]? \s ){1,4}
    (?: (?:so|then)\s )?
    (?: (?:it|that|this) (?:['’]s | \s(?:is|should\sbe|must\sbe|would\sbe|equals|=)) \s )?
    (?: (?:actually|really|just)\s )?
    (?P<value> [(*$€£\\+−-]{0,4} [0-9] [^\n.;!?]{0,20} (?:\.[0-9]{1,9})?
             | [(*]{0,3} (?-i:[A-Z]) [)*]{0,3} ) (?= [.!;]? \s* (?:\n|$) | [.!;]\s )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MOST_WORDS = 3


def is_supposed(text: str, start: int) -> bool:
    """Whether the words before a phrase only suppose, deny or report it."""
    return _SUPPOSED_BEFORE.search(text, max(0, start - _AROUND), start) is not None


def is_denied(text: str, start: int) -> bool:
    """Whether a "not" or "instead of" stands right before a box."""
    return _NOT_BEFORE.search(text, max(0, start - 40), start) is not None


def is_taken_back(text: str, end: int) -> bool:
    """Whether what follows right after an answer says that it is wrong."""
    return _AFTER.match(text, end, end + 2 * _AROUND) is not None


def is_doubted(payload: str) -> bool:
    """Whether an answer's own sentence ends by saying that it is wrong."""
    found = _DOUBTED_INSIDE.search(payload)
    return found is not None and " not " not in payload[: found.start()]


def find_corrections(text: str, begin: int) -> list[tuple[int, int, str]]:
    """Where, from `begin` on, a short value takes the place of an answer: "Wait, it is 13."."""
    return [
        (found.start(), found.end("value"), found["value"])
        for found in _CORRECTION.finditer(text, begin)
        if len(found["value"].split()) <= _MOST_WORDS
    ]
