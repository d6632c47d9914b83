r"""The words and signs by which a response chooses a letter, judges it or rules it out.

A response does so in two ways: in a line or list item ("(B) incorrect"), which
`evals.answers.choice` reads, or in a sentence ("Option B is wrong, which leaves C"), which
`evals.answers.choice_claims` reads. Both use the vocabulary below. In a sentence, a mark with a
number such as ⟨0⟩ takes the place of every list of letters, so that a comma within the list does
not look like the end of a clause.
"""

from __future__ import annotations

import re

from evals.answers.negation import BREAKS_CONDITION

# Vocabulary: alternatives of a pattern, without brackets around them.
_NOUNS = r"option|choice|answer|letter|statement|alternative|possibility"
_RIGHT = r"correct|right|true"
_WRONG = r"incorrect|wrong|false"
_TICK = r"✓|✔|✅"
_CROSS = r"✗|✘|❌"
_UNLIKE = r"unlike|rather\sthan|instead\sof|as\sopposed\sto|in\scontrast\s(?:to|with)"
_EXCEPT = r"except(?:\sfor)?|other\sthan|besides|apart\sfrom"
_SECOND_THOUGHT = r"wait|actually|correction|sorry|oops|on\ssecond\sthought|reconsider"

# Lines and list items.

TYPESETTING = re.compile(
    r"\\(?:text(?:bf|it|rm)?|math(?:bf|it|rm)|mbox|bf|rm)\b|[{}$*`]|\\[()\[\], ]"
)
# "C \text{ mitochondria}" is a letter and the text of its choice.
TYPESET_CHOICE_TEXT = re.compile(
    r"^(\s*\(?[A-Z]\)?)\s*((?:\\q?quad|\\[ ,;]|\s)*\\(?:text(?:bf|it|rm)?|mbox)\s*\{[.:)\s]*"
    r"(?!(?:or|and|nor|is|was|isn|not|only|but|can|cannot|if|when)\b)\w|\\q?quad\s*[\w\\(])"
)
# "The answer: B", "option (B)", "B".
_NAMED = r"(?:(?:the\s)?(?:answer|option|choice|letter)\s*[:=]?\s*)?"
BARE_LETTER = re.compile(rf"{_NAMED}[(\[\"'“]?(?P<letter>[A-Z])[)\]\"'”]?[.,:;!]?", re.IGNORECASE)
LABEL = re.compile(
    rf"(?i:{_NAMED})(?:[(\[](?P<closed>[A-Za-z])[)\]]|(?P<upper>[A-Z])(?:[).:]|\s[-–—](?=\s))"
    r"|(?P<lower>[a-z])\))(?=\s|$|[^\w\s])(?P<rest>.*)",
    re.DOTALL,
)
LETTER_CLAUSE = re.compile(
    rf"(?i:{_NAMED})(?P<letter>[A-Z])"
    r"(?=\s*[,;(]|\s(?:because|since|as|is|due|which|for|based|given|not)\b)(?P<rest>.*)",
    re.DOTALL,
)
ANOTHER_LETTER = re.compile(
    r"\s*(?:,|/|&|\band\b|\bor\b|\bnor\b)\s*(?:[(\[][A-Za-z][)\]]|[A-Z](?!\w))"
)
LIST_ITEM = re.compile(
    r"(?:(?:option|choice)\s)?[(\[]?(?P<letter>[A-Z])"
    rf"(?:[).:\]]|(?=\s(?:{_CROSS}|{_TICK}))|(?=\s[-–—]\s(?:[A-Za-z]{{2}}|{_CROSS}|{_TICK})))",
    re.IGNORECASE,
)
BULLET = re.compile(r"(?:[-•>–]|\d{1,2}[.)])\s+(?=\S)")
_IS_OR_IS_NOT = (
    r"(?:is|was|are|isn['’]t|can(?:not|['’]t)\sbe|must\sbe|can\sbe|should\sbe|has\sbeen|would\sbe)"
)
# After "B", these words say something about B, so that B is not yet chosen by standing first.
IS_JUDGED = re.compile(
    rf"[\s,;]*(?:(?:which|that|this|it|but)\s){{0,3}}{_IS_OR_IS_NOT}\b", re.IGNORECASE
)
SAYS_SOMETHING = re.compile(
    rf"\s(?:{_IS_OR_IS_NOT}|(?:states?|says?|claims?|describes?|refers?|implies|suggests?|has|does|doesn['’]t"
    r"|seems?|looks?|contradicts?|violates?|fails?|ignores?|confuses?|would|could|might|may)\b)"
)
STATED_LETTER = re.compile(
    r"\W*(?:(?:the\s)?(?:answer|option|choice|letter)\W+)?[A-Z](?!\w)[)\]}*]*"
    r"(?=[.!,;]?\s(?:wait|no|but|that|this|which|actually|hmm|oh|hold|oops|sorry|scratch|I)\b)",
    re.IGNORECASE,
)
# "B. Wrong", "(C) ✓", "the text is not correct": right after the letter the verdict is about it.
VERDICT = re.compile(
    r"[\s.,:;()\]\[–—-]*(?:(?:text|this|it|option|choice|answer|statement|the)\s){0,3}"
    r"(?:is\s|was\s|would\sbe\s|['’]s\s)?(?:(?:\w+ly|also|the)\s){0,2}"
    rf"(?:(?P<no>(?:not|isn['’]t)\s(?:the\s)?(?:{_RIGHT}|valid|it\b|answer|supported)"
    rf"|(?:{_WRONG})(?!\s(?:that|to|for)\b)|{_CROSS}|nope\b|not\W*$|no\b(?!\s\w)|eliminated|ruled\sout)"
    rf"|(?P<yes>{_RIGHT}|{_TICK}|best|yes\b))",
    re.IGNORECASE,
)
# Farther behind the letter only words that judge count: "no" and "best" may mean something else.
VERDICT_ANYWHERE = re.compile(
    rf"(?P<no>\b(?:{_WRONG}|(?:not|isn['’]t)\s(?:the\s)?(?:{_RIGHT})|eliminated?|ruled?\sout)\b|{_CROSS})"
    rf"|(?P<yes>(?<!not\s)\b(?:correct|true|right\s(?:answer|choice|option))\b|{_TICK})",
    re.IGNORECASE,
)
TRUTH_WORD = re.compile(r"\b(?:true|false|yes|no)\b", re.IGNORECASE)
WRONG_WORD = re.compile(
    rf"\b(?:{_WRONG}|mistaken|impossible|eliminat\w*|reject\w*|rul(?:e|es|ed|ing)\s(?:\w+\s)?out"
    rf"|(?:not|cannot\sbe|can['’]t\sbe)\s(?:\w+\s)?(?:{_RIGHT}|answer|possible|[A-Z]\b)"
    rf"|(?:isn|wasn)['’]t\s(?:the\s)?(?:{_RIGHT}|answer|[A-Z]\b))",
    re.IGNORECASE,
)
CORRECTION = re.compile(
    rf"\b(?:{_SECOND_THOUGHT}|no|mistake|instead|rather|however)", re.IGNORECASE
)
REGRET = re.compile(rf"\b(?:{_SECOND_THOUGHT}|mistaken?|hold\son|hmm+)\b|\bno,", re.IGNORECASE)
ANSWER_IS = re.compile(r"\b(answers?)\s?(?:is|was|:|=)\s", re.IGNORECASE)
EXPLANATION = re.compile(
    r"\s*\n|[\s#*_]*(?:explanation|reason(?:ing)?|justification|rationale|analysis|because|why)\b",
    re.IGNORECASE,
)

# Sentences.

# A small letter counts only in brackets, a capital only as a word of its own: not in "U.S.A.".
_LETTER = (
    r"(?:[(\[]\s?(?:[A-Z]|[a-z])\s?[)\]]|[\"“'‘][A-Z][\"”'’]|(?<![\w'’.])[A-Z](?![\w'’]|\.\w))"
)
_NOUN = rf"(?:answer\s(?:option|choice)|{_NOUNS})s?"
_ONE = rf"(?:(?i:(?:the\s)?{_NOUN}\s))?{_LETTER}"
_LINK = r"\s?(?:,\s?(?i:and|or|nor|as\swell\sas)\b|,|/|&|\b(?i:and|or|nor|as\swell\sas)\b)\s?"
LETTER_LIST = re.compile(rf"(?P<first>{_ONE})(?P<more>(?:{_LINK}{_ONE})*)")
SINGLE_LETTER = re.compile(_LETTER)
CONTRAST_BEFORE = re.compile(rf"\b(?:{_UNLIKE}|{_EXCEPT}|not)\s$", re.IGNORECASE)
VERB_AFTER_LETTER = re.compile(
    r"\s(?:is|was|isn|has|does|doesn|fits|fails|matches|works|remains)\b"
)
# "B, which the text mentions, is wrong": the aside would part the letter from its verdict.
ASIDE = re.compile(
    r",\s[^,;.⟨⟩]{1,100},(?=\s(?:is|was|isn['’]t|can|cannot|must|does|doesn['’]t|has|seems)\b)",
    re.IGNORECASE,
)
JUDGES_LAST_LETTER = re.compile(
    r"\W*(?:(?:and|but|wait|no|however|though|although|actually|oh|hmm)\W+)*"
    r"(?:that|this|it|which)(?:['’]s|\s(?:is|was|would\sbe|isn['’]t|can['’]t|cannot))\b"
    rf"(?:\s\w+){{0,3}}?\s(?:{_WRONG}|mistaken|untrue|invalid|impossible|{_RIGHT}|possible"
    r"|the\scase)\b"
    r"|\W*(?:(?:but|no|wait|however|hmm|actually)\W+)*(?:that|this|it|which)"
    rf"\s{BREAKS_CONDITION}\b"
    r"|\W*(?:(?:but|no|wait|however|hmm|actually)\W+)*(?:that|this|it|which)\s(?:doesn['’]t|does\snot|can['’]t|cannot)"
    r"\s(?:work|fit|match|hold|make\ssense|add\sup)\b",
    re.IGNORECASE,
)
AGENTS = re.compile(r"\bagents?\s\d+(?:(?:,\s?and|,|\s?and|\s?&)\s?\d+)+", re.IGNORECASE)
AGREEMENT = re.compile(
    r"(?<=\bagree)\swith\s(?:the\s)?(?:other\s)?(?:agents?|majority)(?:\s\d+)?", re.IGNORECASE
)
# How the others were ruled out says nothing against the letter that is left.
ELIMINATION = re.compile(
    r"\b(?:by\s)?(?:the\s)?process\sof\selimination,?|\bby\selimination,?"
    r"|\b(?:eliminat|exclud|rul)\w+\s(?:out\s)?(?:the\s(?:rest|others?|other\s\w+)|all\s(?:the\s)?others?"
    r"|everything\selse)(?:\sout)?",
    re.IGNORECASE,
)
DOTS = re.compile(r"\s?(?:\.{2,}|…)(?:\s|$)")
INTERJECTION = re.compile(r"\b(?:no|nope|wait|yes)\s?[,:;.!—–-]\s", re.IGNORECASE)
# The mark that takes the place of a list of letters.
MARK = re.compile(r"⟨(\d+)⟩")
_MARKED = "⟨\\d+⟩"
# "Rather than B", "neither C nor D", "over A": names letters only to leave them aside.
DROPPED = re.compile(
    rf"""
    [,(—–-]?\s?
    (?: \b(?:and|but|or)\s )?
    (?: \b(?:{_UNLIKE}|{_EXCEPT}|aside\sfrom|compared\s(?:to|with)|better\sthan|excluding
          |(?:all|everything|anything|any|each|every\w*)\s(?:\w+\s)?but|over|not(?:\sjust|\ssimply)?
          |(?:none|neither|both|one)\sof|neither|nor)
        \s (?:(?:the|of|for|with|in|it\sis|it['’]s|choosing|picking|selecting)\s){{0,2}} )
    (?:{_MARKED})
    (?P<judged>\s(?:is|are|was|were|can|could|seem|seems|fit|fits|match|matches|work|works
        |make|makes|have|has|do|does)\b[^,;.]*)?
    [,)—–]?
    """,
    re.VERBOSE | re.IGNORECASE,
)
# "All options but C are wrong", "none except C fits": the exception is the one.
EXCEPTION = re.compile(
    rf"\b(?P<quantity>all|every\w*|each|any(?:thing)?|none|nothing|no)\b(?:\s(?:of|the|other|\w*options?|\w*choices?"
    rf"|answers?|statements?|one|else|four|five)){{0,4}},?\s(?:{_EXCEPT}|aside\sfrom|but)"
    rf"\s(?P<at>{_MARKED}),?\s(?P<said>(?:(?!\b(?:but|so|and|which)\b)[^,;.⟨⟩]){{3,60}})",
    re.IGNORECASE,
)
FITS = re.compile(
    rf"(?:(?:is|are|can\sbe|could\sbe|seems?|looks?)\s(?:\w+ly\s)?(?:{_RIGHT}|valid|possible"
    r"|consistent|left|suitable)|fits?|works?|match(?:es)?|remains?|satisf(?:y|ies)|holds?|makes?\ssense)\b",
    re.IGNORECASE,
)
# "The only one that is not ruled out" is the one that remains.
NOT_RULED_OUT = re.compile(
    r"\bonly\s(?:one|option|choice|answer|statement|letter|possibility)\s(?:(?:that|which)\s)?"
    r"(?:(?:is|was|has|does|can|could)(?:n['’]t|\snot)|not)\s(?:(?:been|be|get)\s)?(?:\w+ly\s)?"
    rf"(?:{_WRONG}|eliminated|excluded|rejected|refuted|contradicted|ruled\sout|crossed\sout"
    r"|invalid|fail)\b",
    re.IGNORECASE,
)
THEREFORE = re.compile(
    r"\b(is|was|must|has\sto)\s(?:therefore|thus|hence|then|so)\s", re.IGNORECASE
)
BARE_NO = re.compile(
    r"\W*(?:(?:definitely|certainly|clearly|obviously|absolutely|surely|also)\s)?"
    rf"(?:no|nope|not|never|{_WRONG}|no\sway|out)\W*$",
    re.IGNORECASE,
)
NOT_BUT = re.compile(rf"\bnot\s{_MARKED}\s?,?\s?(?:but|rather|instead)\s", re.IGNORECASE)
# Any of these words in a clause denies its letters. A word too many here costs a vote; a word too
# few gives a false vote, which is worse.
NEGATIVE = re.compile(
    rf"""
    \b(?:not|never|no|nor|neither|none|nothing|cannot|without|hardly|un\w*likely|lacks?|fails?|failed
      |{_WRONG}|incorrectly|wrongly|untrue|invalid|inaccurate|inappropriate|irrelevant|mistaken
      |implausible|impossible|improbable|incomplete|inconsistent|incompatible|contradict\w*|violat\w*
      |eliminat\w*|exclud\w*|reject\w*|discard\w*|dismiss\w*|disqualif\w*|discount\w*|disregard\w*
      |refut\w*|disprov\w*|disagree\w*|doubt\w*|rul(?:e|es|ed|ing)\s(?:\S+\s){{0,4}}?out|cross(?:ed|ing)?\s(?:\S+\s){{0,3}}?(?:out|off)
      |nope|leav(?:e|es|ing)\s\S+\sout|(?:is|be|was)\san?\s(?:\w+\s)?(?:error|mistake)
      |throw(?:n)?\sout|strike|struck|out\sof\sthe\s(?:question|running)|too\s\w+|unless
      |distractors?|trap|misleading|misconception|tempting|flawed|nonsens\w*|absurd|unrelated
      |unsupported|opposite|reverse|less\s(?:likely|accurate|appropriate|suitable|correct)|worst
      |least)\b
    | n['’]t\b | {_CROSS}
    """,
    re.VERBOSE | re.IGNORECASE,
)
# The clause only supposes something, or reports what others chose.
SUPPOSED = re.compile(
    r"\b(?:if|whether|suppose|supposing|assume|assuming|unless|would|could|may|might|perhaps|maybe"
    r"|possibly|seems?|seemed|appears?|looks?|initially|at\sfirst|first\sthought|some|agents?|they"
    r"|he|she|consider|considering|let['’]?s|between|versus|vs|could|tempting|thought|partly"
    r"|partially|sometimes"
    r"|(?:many|most(?=\s(?:students|people|others|readers))|students?|people|others?|everyone|readers?)\s(?:\w+\s){0,2}"
    r"(?:choose|chose|pick|select|answer|say|think|think\sof|go\sfor))\b"
    rf"|\b(?:{_RIGHT}|valid|best)\sonly\W*$|\bonly\swhen\b",
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
_IS_CHOSEN = (
    r"(?:is|was|must\sbe|has\sto\sbe|should\sbe|can\sonly\sbe|['’]s|remains|stands|becomes"
    r"|turns\sout\sto\sbe)"
)
# The ways to assert a choice: "B is the only correct one", "I choose B", "the answer must be B", …
ASSERTED = tuple(
    re.compile(pattern, re.VERBOSE | re.IGNORECASE)
    for pattern in (
        rf"(?P<at>{_MARKED})(?:\s\([^()]*\)|\s?:[^:;]{{1,80}}?)?\s{_IS_CHOSEN}\s{_ADVERB}{_BEST}\b",
        rf"(?P<at>{_MARKED})\s(?:remains|satisfies|meets|fulfills|it\sis(?=\W*$)|fits|matches|works|holds|wins|is\sleft|alone\s(?:fits|works|remains))\b",
        rf"\b(?:choose|chose|choosing|select|selecting|pick|picking|go(?:ing)?\s(?:with|for)|opt(?:ing)?\sfor|settle\son"
        rf"|(?:stick|stay)\swith|stand\sby|say|vote(?:\sfor|\sgoes\sto)?|I\sanswer|prefer|conclude|leav(?:e|es|ing)(?:\s(?:us|me|you|only|just|with))*"
        rf"|left\swith|answer\swith|mark)\s{_ADVERB}(?:only\s|just\s)?(?P<at>{_MARKED})",
        rf"\b(?:it|this|that|which|one|answer|choice|option|letter|pick|vote|remains|remaining(?:\s\w+)?"
        rf"|(?:correct|right|best|only)\s\w+)(?:\s|(?=['’])){_IS_CHOSEN}\s{_ADVERB}(?:simply\s|just\s)?(?P<at>{_MARKED})",
        rf"\b(?:get|gets|gives|give|have|find|makes)\s{_ADVERB}(?P<at>{_MARKED})\sas\s{_ADVERB}{_BEST}\b",
        rf"\b(?:this|that|which|it|answer|result|value)\s(?:corresponds\sto|matches|equals|gives"
        rf"|points\sto|supports|leads\sto)\s{_ADVERB}(?P<at>{_MARKED})",
        rf"\b(?:matching|corresponding\sto)\s(?P<at>{_MARKED})",
        rf"\b(?:chang|revis|updat|switch|correct|adjust|amend)\w*\s(?:my|our)\s(?:\w+\s){{0,2}}(?:answer|choice|vote)"
        rf"\s(?:from\s{_MARKED}\s)?to\s{_ADVERB}(?P<at>{_MARKED})",
        rf"\bI(?:\snow|['’]ll|\swill|\sam|['’]m)?\s(?:chang|switch|mov)\w*\s(?:from\s{_MARKED}\s)?to\s(?P<at>{_MARKED})",
        rf"^\W*(?:(?:so|thus|hence|therefore|then)\W+)?(?:must|has\sto)\sbe\s(?P<at>{_MARKED})",
        rf"\b(?:answer|choice|option|vote|pick|remaining)\s?(?:[:=]|→|⇒)\s?(?P<at>{_MARKED})",
    )
)
_CONNECTIVE = (
    r"(?:so|thus|hence|therefore|then|and|but|only|final\sanswer|∴|→|⇒|=>|in\s(?:conclusion|short|summary"
    r"|the\send)|conclusion|verdict|finally|overall|ultimately|accordingly|instead|rather|namely"
    r"|consequently|as\sa\sresult|by\selimination|clearly|yes|no|well|i\.?e\.?|that\sis|meaning)"
)
# "So, B": a letter alone in its clause counts only after such a word or at the start.
LEAD = re.compile(rf"\W*{_CONNECTIVE}\b\W*", re.IGNORECASE)
LETTER_ALONE = re.compile(
    rf"^\W*(?:{_CONNECTIVE}\W+)*"
    rf"(?:(?:the\s)?(?:correct|right|best|final)?\s?(?:answer|option|choice|one)\s(?:is\s)?)?"
    rf"(?P<at>{_MARKED})\s*(?:\W*$|:.*$|\([^()]*\)\W*$|[-–—]\s.*$)",
    re.IGNORECASE,
)
# "I would go with B" supposes nothing.
I_WOULD = re.compile(
    r"\bI(?:['’]d|\swould)\s(?=(?:go|say|choose|pick|select|opt)\b)", re.IGNORECASE
)
QUESTION = re.compile(r"[^.!?;]*\?")
CLAUSE_BREAK = re.compile(
    r"""
    \s?[;]\s | \s[—–]\s? | ,\s | (?<=[\w⟩])[.!?]\s+
    | ,?\s?\b(?=(?:but|so|therefore|hence|thus|because|since|while|whereas|although|though
        |however|yet|leaving|which|as(?!\s(?:the|our|my)\b)|if|then|and)\b)
    """,
    re.VERBOSE | re.IGNORECASE,
)
# A bare capital is the letter of a choice only between words that fit one: not in "A dog",
# "vitamin C" or "I think".
AFTER_LETTER = re.compile(
    r"\s*(?:$|[.,:;!?)\-–—=→⇒/&]|(?:is|are|was|were|must|has|have|can|cannot|could|should|would|may"
    r"|might|and|or|nor|because|since|as|due|which|that|but|so|does|do|did|isn|wasn|can|doesn|fits?|satisf(?:y|ies)|meets?|fulfills?"
    r"|remains?|works?|matches|seems?|looks?|over|instead|rather|not|by|from|for|in|on|with|here"
    r"|alone|also|too|to|out|would|violates?|contradicts?|fails?|states?|says?|says|describes?|refers?"
    r"|it\sis|alternatively|then|when|where|while|being|based|given|however|holds|wins|only)\b|['’]s\b)"
)
BEFORE_LETTER = re.compile(
    rf"(?:^|[^\w\s⟩]\s*|\b(?:{_NOUNS}|is|be|are"
    r"|was|so|thus|hence|therefore|then|that|only|and|or|nor|not|but|with|of|for|on|out|choose|chose"
    r"|choosing|select|selecting|pick|picking|eliminate|eliminates|eliminated|eliminating|exclude"
    r"|excludes|excluding|reject|rejects|rejecting|discard|discarding|dismiss|leaves|leaving|leave"
    r"|us|just|except|besides|than|unlike|either|neither|both|between|to|while|since|because|as|if"
    r"|although|though|whereas|however|over|from|remains|conclude|prefer|mark|say|definitely"
    r"|clearly|actually|probably|now|here|also|simply|get|gets|gives|give|have|has|matches|equals|supports|satisfies|yes|no|all|makes|it['’]s|that['’]s|answer['’]s|make|find|consider|when|like"
    r"|options|choices|answers|letters|statements|instead|rather|by|in|cross|ruling|rule|i|vote|likely|think|believe)s?\s+)$",
    re.IGNORECASE,
)
