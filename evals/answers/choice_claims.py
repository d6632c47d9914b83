r"""Which of several lettered choices a sentence chooses, which it rules out.

"Option B is incorrect" names B and chooses nothing; "B is wrong, which leaves C" chooses C. A
letter counts as chosen only where the words say so and nothing around it denies it: a false vote
is worse than none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LETTER = (
    r"(?:[(\[]\s?(?:[A-Z]|[a-z])\s?[)\]]|[\"“'‘][A-Z][\"”'’]|(?<![\w'’.])[A-Z](?![\w'’]|\.\w))"
)
_NOUN = (
    r"(?:answer\s(?:option|choice)|option|choice|answer|letter|statement|alternative|possibility)s?"
)
_ONE = rf"(?:(?i:(?:the\s)?{_NOUN}\s))?{_LETTER}"
_LINK = r"\s?(?:,\s?(?i:and|or|nor|as\swell\sas)\b|,|/|&|\b(?i:and|or|nor|as\swell\sas)\b)\s?"
_LIST = re.compile(rf"(?P<first>{_ONE})(?P<more>(?:{_LINK}{_ONE})*)")
_INNER = re.compile(_LETTER)
_CONTRASTED = re.compile(
    r"\b(?:unlike|rather\sthan|instead\sof|as\sopposed\sto|in\scontrast\s(?:to|with)|besides"
    r"|apart\sfrom|other\sthan|except(?:\sfor)?|not)\s$",
    re.IGNORECASE,
)
_ONE_FOLLOWS = re.compile(r"\s(?:is|was|isn|has|does|doesn|fits|fails|matches|works|remains)\b")
_ASIDE = re.compile(
    r",\s[^,;.⟨⟩]{1,100},(?=\s(?:is|was|isn['’]t|can|cannot|must|does|doesn['’]t|has|seems)\b)",
    re.IGNORECASE,
)
_OF_IT = re.compile(
    r"\W*(?:(?:and|but|wait|no|however|though|although|actually|oh|hmm)\W+)*"
    r"(?:that|this|it|which)(?:['’]s|\s(?:is|was|would\sbe|isn['’]t|can['’]t|cannot))\b"
    r"(?:\s\w+){0,3}?\s(?:wrong|incorrect|false|mistaken|untrue|invalid|impossible|right|correct"
    r"|true|possible|the\scase)\b"
    r"|\W*(?:(?:but|no|wait|however|hmm|actually)\W+)*(?:that|this|it|which)\s(?:contradicts|violates)\s(?:the\s(?:text"
    r"|passage|condition|question|problem|statement|given|data|constraint|requirement|definition)|our|what)\b"
    r"|\W*(?:(?:but|no|wait|however|hmm|actually)\W+)*(?:that|this|it|which)\s(?:doesn['’]t|does\snot|can['’]t|cannot)"
    r"\s(?:work|fit|match|hold|make\ssense|add\sup)\b",
    re.IGNORECASE,
)
_AGENTS = re.compile(r"\bagents?\s\d+(?:(?:,\s?and|,|\s?and|\s?&)\s?\d+)+", re.IGNORECASE)
_AGREED = re.compile(
    r"(?<=\bagree)\swith\s(?:the\s)?(?:other\s)?(?:agents?|majority)(?:\s\d+)?", re.IGNORECASE
)
# How the others were ruled out says nothing against the letter that is left.
_ELIMINATION = re.compile(
    r"\b(?:by\s)?(?:the\s)?process\sof\selimination,?|\bby\selimination,?"
    r"|\b(?:eliminat|exclud|rul)\w+\s(?:out\s)?(?:the\s(?:rest|others?|other\s\w+)|all\s(?:the\s)?others?"
    r"|everything\selse)(?:\sout)?",
    re.IGNORECASE,
)
_DOTS = re.compile(r"\s?(?:\.{2,}|…)(?:\s|$)")
_INTERJECTION = re.compile(r"\b(?:no|nope|wait|yes)\s?[,:;.!—–-]\s", re.IGNORECASE)
# A list of letters in a sentence becomes one of these marks, with its number: the clauses that
# are looked at then hold no comma of a list.
_MARK = re.compile(r"⟨(\d+)⟩")
_A = "⟨\\d+⟩"

_DROPPED = re.compile(
    rf"""
    [,(—–-]?\s?
    (?: \b(?:and|but|or)\s )?
    (?: \b(?:rather\sthan|instead\sof|as\sopposed\sto|in\scontrast\s(?:to|with)
          |unlike|compared\s(?:to|with)|other\sthan|better\sthan|apart\sfrom|aside\sfrom|besides|excluding|except(?:\sfor)?
          |(?:all|everything|anything|any|each|every\w*)\s(?:\w+\s)?but|over|not(?:\sjust|\ssimply)?
          |(?:none|neither|both|one)\sof|neither|nor)
        \s (?:(?:the|of|for|with|in|it\sis|it['’]s|choosing|picking|selecting)\s){{0,2}} )
    (?:{_A}) (?P<judged>\s(?:is|are|was|were|can|could|seem|seems|fit|fits|match|matches|work|works
        |make|makes|have|has|do|does)\b[^,;.]*)?
    [,)—–]?
    """,
    re.VERBOSE | re.IGNORECASE,
)
# "All options but C are wrong", "none except C fits": the exception is the one.
_EXCEPTION = re.compile(
    rf"\b(?P<quantity>all|every\w*|each|any(?:thing)?|none|nothing|no)\b(?:\s(?:of|the|other|\w*options?|\w*choices?"
    rf"|answers?|statements?|one|else|four|five)){{0,4}},?\s(?:except(?:\sfor)?|but|other\sthan|besides|apart\sfrom"
    rf"|aside\sfrom)\s(?P<at>{_A}),?\s(?P<said>(?:(?!\b(?:but|so|and|which)\b)[^,;.⟨⟩]){{3,60}})",
    re.IGNORECASE,
)
_FITS = re.compile(
    r"(?:(?:is|are|can\sbe|could\sbe|seems?|looks?)\s(?:\w+ly\s)?(?:correct|right|true|valid|possible"
    r"|consistent|left|suitable)|fits?|works?|match(?:es)?|remains?|satisf(?:y|ies)|holds?|makes?\ssense)\b",
    re.IGNORECASE,
)
# "The only one that is not ruled out" is the one that remains.
_UNTOUCHED = re.compile(
    r"\bonly\s(?:one|option|choice|answer|statement|letter|possibility)\s(?:(?:that|which)\s)?"
    r"(?:(?:is|was|has|does|can|could)(?:n['’]t|\snot)|not)\s(?:(?:been|be|get)\s)?(?:\w+ly\s)?"
    r"(?:wrong|incorrect|false|eliminated|excluded|rejected|refuted|contradicted|ruled\sout|crossed\sout"
    r"|invalid|fail)\b",
    re.IGNORECASE,
)
_THEREFORE = re.compile(
    r"\b(is|was|must|has\sto)\s(?:therefore|thus|hence|then|so)\s", re.IGNORECASE
)
_JUST_NO = re.compile(
    r"\W*(?:(?:definitely|certainly|clearly|obviously|absolutely|surely|also)\s)?"
    r"(?:no|nope|not|never|wrong|incorrect|false|no\sway|out)\W*$",
    re.IGNORECASE,
)
_NOT_BUT = re.compile(rf"\bnot\s{_A}\s?,?\s?(?:but|rather|instead)\s", re.IGNORECASE)
_NEGATIVE = re.compile(
    r"""
    \b(?:not|never|no|nor|neither|none|nothing|cannot|without|hardly|un\w*likely|lacks?|fails?|failed
      |incorrect(?:ly)?|wrong(?:ly)?|false|untrue|invalid|inaccurate|inappropriate|irrelevant|mistaken
      |implausible|impossible|improbable|incomplete|inconsistent|incompatible|contradict\w*|violat\w*
      |eliminat\w*|exclud\w*|reject\w*|discard\w*|dismiss\w*|disqualif\w*|discount\w*|disregard\w*
      |refut\w*|disprov\w*|disagree\w*|doubt\w*|rul(?:e|es|ed|ing)\s(?:\S+\s){0,4}?out|cross(?:ed|ing)?\s(?:\S+\s){0,3}?(?:out|off)
      |nope|leav(?:e|es|ing)\s\S+\sout|(?:is|be|was)\san?\s(?:\w+\s)?(?:error|mistake)
      |throw(?:n)?\sout|strike|struck|out\sof\sthe\s(?:question|running)|too\s\w+|unless
      |distractors?|trap|misleading|misconception|tempting|flawed|nonsens\w*|absurd|unrelated
      |unsupported|opposite|reverse|less\s(?:likely|accurate|appropriate|suitable|correct)|worst
      |least)\b
    | n['’]t\b | [✗✘❌]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|suppose|supposing|assume|assuming|unless|would|could|may|might|perhaps|maybe"
    r"|possibly|seems?|seemed|appears?|looks?|initially|at\sfirst|first\sthought|some|agents?|they"
    r"|he|she|consider|considering|let['’]?s|between|versus|vs|could|tempting|thought|partly"
    r"|partially|sometimes"
    r"|(?:many|most(?=\s(?:students|people|others|readers))|students?|people|others?|everyone|readers?)\s(?:\w+\s){0,2}"
    r"(?:choose|chose|pick|select|answer|say|think|think\sof|go\sfor))\b"
    r"|\b(?:correct|right|true|valid|best)\sonly\W*$|\bonly\swhen\b",
    re.IGNORECASE,
)
_ADVERB = (
    r"(?:\w+ly\s|most\slikely\s|indeed\s|also\s|thus\s|hence\s|therefore\s|then\s|the\s|an?\s"
    r"|our\s|my\s){0,4}"
)
_BEST = (
    r"(?:one\s|only\s|single\s|sole\s|most\s|more\s|best\s|closest\s|correct\s|right\s|final\s){0,3}"
    r"(?:correct|right|best|better|true|accurate|appropriate|valid|suitable|closest|answer|choice"
    r"|option|possibility|remaining|fitting|winner|match|one|consistent|supported|left"
    r"|(?<=most\s)(?:likely|plausible|reasonable)|(?<=more\s)(?:likely|plausible|reasonable)"
    r"|(?<=only\s)(?:plausible|reasonable)|what(?:['’]s|\sis)\sleft|all\sthat\s(?:remains|is\sleft)|last\sone\s(?:standing|left))"
)
_IS = (
    r"(?:is|was|must\sbe|has\sto\sbe|should\sbe|can\sonly\sbe|['’]s|remains|stands|becomes"
    r"|turns\sout\sto\sbe)"
)
_ASSERTED = tuple(
    re.compile(pattern, re.VERBOSE | re.IGNORECASE)
    for pattern in (
        rf"(?P<at>{_A})(?:\s\([^()]*\)|\s?:[^:;]{{1,80}}?)?\s{_IS}\s{_ADVERB}{_BEST}\b",
        rf"(?P<at>{_A})\s(?:remains|satisfies|meets|fulfills|it\sis(?=\W*$)|fits|matches|works|holds|wins|is\sleft|alone\s(?:fits|works|remains))\b",
        rf"\b(?:choose|chose|choosing|select|selecting|pick|picking|go(?:ing)?\s(?:with|for)|opt(?:ing)?\sfor|settle\son"
        rf"|(?:stick|stay)\swith|stand\sby|say|vote(?:\sfor|\sgoes\sto)?|I\sanswer|prefer|conclude|leav(?:e|es|ing)(?:\s(?:us|me|you|only|just|with))*"
        rf"|left\swith|answer\swith|mark)\s{_ADVERB}(?:only\s|just\s)?(?P<at>{_A})",
        rf"\b(?:it|this|that|which|one|answer|choice|option|letter|pick|vote|remains|remaining(?:\s\w+)?"
        rf"|(?:correct|right|best|only)\s\w+)(?:\s|(?=['’])){_IS}\s{_ADVERB}(?:simply\s|just\s)?(?P<at>{_A})",
        rf"\b(?:get|gets|gives|give|have|find|makes)\s{_ADVERB}(?P<at>{_A})\sas\s{_ADVERB}{_BEST}\b",
        rf"\b(?:this|that|which|it|answer|result|value)\s(?:corresponds\sto|matches|equals|gives"
        rf"|points\sto|supports|leads\sto)\s{_ADVERB}(?P<at>{_A})",
        rf"\b(?:matching|corresponding\sto)\s(?P<at>{_A})",
        rf"\b(?:chang|revis|updat|switch|correct|adjust|amend)\w*\s(?:my|our)\s(?:\w+\s){{0,2}}(?:answer|choice|vote)"
        rf"\s(?:from\s{_A}\s)?to\s{_ADVERB}(?P<at>{_A})",
        rf"\bI(?:\snow|['’]ll|\swill|\sam|['’]m)?\s(?:chang|switch|mov)\w*\s(?:from\s{_A}\s)?to\s(?P<at>{_A})",
        rf"^\W*(?:(?:so|thus|hence|therefore|then)\W+)?(?:must|has\sto)\sbe\s(?P<at>{_A})",
        rf"\b(?:answer|choice|option|vote|pick|remaining)\s?(?:[:=]|→|⇒)\s?(?P<at>{_A})",
    )
)
_CONNECTIVE = (
    r"(?:so|thus|hence|therefore|then|and|but|only|final\sanswer|∴|→|⇒|=>|in\s(?:conclusion|short|summary"
    r"|the\send)|conclusion|verdict|finally|overall|ultimately|accordingly|instead|rather|namely"
    r"|consequently|as\sa\sresult|by\selimination|clearly|yes|no|well|i\.?e\.?|that\sis|meaning)"
)
_LEADS = re.compile(rf"\W*{_CONNECTIVE}\b\W*", re.IGNORECASE)
_ALONE = re.compile(
    rf"^\W*(?:{_CONNECTIVE}\W+)*"
    rf"(?:(?:the\s)?(?:correct|right|best|final)?\s?(?:answer|option|choice|one)\s(?:is\s)?)?"
    rf"(?P<at>{_A})\s*(?:\W*$|:.*$|\([^()]*\)\W*$|[-–—]\s.*$)",
    re.IGNORECASE,
)
_MEANT = re.compile(r"\bI(?:['’]d|\swould)\s(?=(?:go|say|choose|pick|select|opt)\b)", re.IGNORECASE)
_QUESTION = re.compile(r"[^.!?;]*\?")
_CLAUSES = re.compile(
    r"""
    \s?[;]\s | \s[—–]\s? | ,\s | (?<=[\w⟩])[.!?]\s+
    | ,?\s?\b(?=(?:but|so|therefore|hence|thus|because|since|while|whereas|although|though
        |however|yet|leaving|which|as(?!\s(?:the|our|my)\b)|if|then|and)\b)
    """,
    re.VERBOSE | re.IGNORECASE,
)


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
    text = _DOTS.sub(" — ", _INTERJECTION.sub(" ", text))
    text = _AGREED.sub("", _ELIMINATION.sub("", _AGENTS.sub("agents", text)))
    text = " ".join(text.split())

    def marked(found: re.Match[str]) -> str:
        if _is_article(text, found):
            return found[0]
        groups = _group_letters(text, found)
        lists.extend(groups)
        first = len(lists) - len(groups)
        return ", ".join(f"⟨{number}⟩" for number in range(first, len(lists)))

    named = _ASIDE.sub(" ", _LIST.sub(marked, text))
    named = _THEREFORE.sub(r"\1 ", _UNTOUCHED.sub("only remaining one", named))
    named = _EXCEPTION.sub(_resolve_exception, named)
    ruled_out: set[str] = set()

    def drop(found: re.Match[str]) -> str:
        for number in _MARK.findall(found[0]):
            ruled_out.update(lists[int(number)])
        return " "

    rest = _NOT_BUT.sub(drop, _QUESTION.sub(" ", named))
    rest = " ".join(_DROPPED.sub(drop, rest).split())
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
        numbers = [int(number) for number in _MARK.findall(clause)]
        of_it = _OF_IT.match(clause) and _NEGATIVE.search(clause)
        if not numbers and (of_it or _JUST_NO.match(clause)):
            ruled_out.update(letter for number in spoken_of for letter in lists[number])
        elif numbers and _NEGATIVE.search(clause):
            ruled_out.update(letter for number in numbers for letter in lists[number])
        elif numbers and not _SUPPOSED.search(_MEANT.sub("I ", clause)):
            for pattern in _ASSERTED:
                found = [lists[int(mark["at"][1:-1])] for mark in pattern.finditer(clause)]
                asserts = asserts or bool(found)
                chosen.extend(found)
            alone = _ALONE.match(clause)
            if alone and (not before or _LEADS.fullmatch(before) or _LEADS.match(clause)):
                chosen.append(lists[int(alone["at"][1:-1])])
        spoken_of = numbers or spoken_of
        before = "" if numbers else clause
    return chosen, asserts


def _resolve_exception(found: re.Match[str]) -> str:
    """ "C remains" for "all but C are wrong" and "none but C fits"; else what was there."""
    fits, denied = _FITS.match(found["said"]), _NEGATIVE.search(found["said"])
    nothing = found["quantity"].lower() in ("none", "nothing", "no")
    holds = (fits and not denied) if nothing else denied
    return f"{found['at']} remains" if holds else found[0]


def _group_letters(text: str, found: re.Match[str]) -> list[str]:
    """The letters of a list, together where the sentence speaks of all of them at once.

    "Unlike B, C is" and "C, and B is" speak of two; "C and D, D is" names D once more.
    """
    letters = [re.sub(r"\W", "", letter).upper() for letter in _INNER.findall(found[0])]
    before = text[max(0, found.start() - 20) : found.start()]
    if _CONTRASTED.search(before) and not re.search(r"\b(?:and|or|nor)\b", found[0], re.IGNORECASE):
        return [letters[0], "".join(letters[1:])] if len(letters) > 1 else letters
    groups = [""]
    for letter in letters:
        if letter in groups[-1]:
            groups.append("")
        groups[-1] += letter
    apart = re.search(r",\s?and\s\S*$", found[0]) and _ONE_FOLLOWS.match(text, found.end())
    if apart and len(groups) == 1 and len(letters) == 2:
        return letters
    return groups


_AFTER_LETTER = re.compile(
    r"\s*(?:$|[.,:;!?)\-–—=→⇒/&]|(?:is|are|was|were|must|has|have|can|cannot|could|should|would|may"
    r"|might|and|or|nor|because|since|as|due|which|that|but|so|does|do|did|isn|wasn|can|doesn|fits?|satisf(?:y|ies)|meets?|fulfills?"
    r"|remains?|works?|matches|seems?|looks?|over|instead|rather|not|by|from|for|in|on|with|here"
    r"|alone|also|too|to|out|would|violates?|contradicts?|fails?|states?|says?|says|describes?|refers?"
    r"|it\sis|alternatively|then|when|where|while|being|based|given|however|holds|wins|only)\b|['’]s\b)"
)
_BEFORE_LETTER = re.compile(
    r"(?:^|[^\w\s⟩]\s*|\b(?:option|choice|answer|letter|statement|alternative|possibility|is|be|are"
    r"|was|so|thus|hence|therefore|then|that|only|and|or|nor|not|but|with|of|for|on|out|choose|chose"
    r"|choosing|select|selecting|pick|picking|eliminate|eliminates|eliminated|eliminating|exclude"
    r"|excludes|excluding|reject|rejects|rejecting|discard|discarding|dismiss|leaves|leaving|leave"
    r"|us|just|except|besides|than|unlike|either|neither|both|between|to|while|since|because|as|if"
    r"|although|though|whereas|however|over|from|remains|conclude|prefer|mark|say|definitely"
    r"|clearly|actually|probably|now|here|also|simply|get|gets|gives|give|have|has|matches|equals|supports|satisfies|yes|no|all|makes|it['’]s|that['’]s|answer['’]s|make|find|consider|when|like"
    r"|options|choices|answers|letters|statements|instead|rather|by|in|cross|ruling|rule|i|vote|likely|think|believe)s?\s+)$",
    re.IGNORECASE,
)


def _is_article(text: str, found: re.Match[str]) -> bool:
    """Whether a bare letter is a word of the sentence: "A dog", "vitamin C", "I think"."""
    listed = found[0]
    if listed[:1] in "([\"“'‘" or not found["first"][:1].isupper() or len(found["first"]) > 1:
        return False
    if listed == "I":
        return True
    before = text[max(0, found.start() - 24) : found.start()]
    return not (_BEFORE_LETTER.search(before) and _AFTER_LETTER.match(text, found.end()))


def _split_clauses(text: str) -> list[str]:
    return [clause.strip() for clause in _CLAUSES.split(text) if clause and clause.strip()]
