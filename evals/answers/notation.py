r"""LaTeX and typography of one number turned into plain characters.

Currency signs, thin spaces and fonts go; ``\frac{3}{4}`` and ``¾`` become ``3/4``, ``10³`` becomes
``10^{3}``, every minus becomes ``-``, every sign of multiplication ``*``, ``≈`` becomes ``=``.
"""

from __future__ import annotations

import re
import unicodedata

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–‐‑‒﹣－", "-"),
        **dict.fromkeys("×·⋅∙∗", "*"),
        **dict.fromkeys("÷⁄∕", "/"),
        **dict.fromkeys("≈≃≅", "="),
        **dict.fromkeys("$€£¥₹¢", " "),
    }
)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_RAISED = re.compile(f"[{_SUPERSCRIPTS}]+")
_LOWERED = str.maketrans(_SUPERSCRIPTS, "0123456789+-")
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_CALCULATION = re.compile(r"<<[^<>]{0,200}>>")
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:bf|it|rm|sf|tt)|bf|rm|mbox|operatorname)\s*"
    r"\{([^{}]*)\}"
)
_NOTHING = re.compile(r"\\(?:left|right|displaystyle|[bB]igg?[lr]?|!)(?![A-Za-z])|\\[()\[\]]")
_SPACE = re.compile(r"\\(?:[,;: \\]|q?quad(?![A-Za-z]))|~")
_CURRENCY = re.compile(r"\\(?:\$|(?:pounds|euro|yen|cents?|textdollar)(?![A-Za-z]))")
_TIMES = re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])")
_ABOUT = re.compile(r"\\(?:approx|simeq|sim|cong)(?![A-Za-z])")
_DEGREES = re.compile(r"\^?\s*\{?\s*(?:\\(?:circ|degree)(?![A-Za-z])|°)\s*\}?")
_TERM = r"\s*(?:\{\s*([-+]?[0-9][0-9,.]*)\s*\}|([0-9]))"
_FRACTION = re.compile(rf"\\[dtc]?frac{_TERM}{_TERM}")


def plain(text: str) -> str:
    """The text in plain characters; what is no number notation stays as it is."""
    text = _CALCULATION.sub("", text)
    text = _RAISED.sub(lambda found: f"^{{{found[0].translate(_LOWERED)}}}", text)
    text = _VULGAR.sub(lambda found: f" {unicodedata.normalize('NFKC', found[0])} ", text)
    text = unicodedata.normalize("NFKC", text)
    text = _CURRENCY.sub(" ", text.replace("{,}", ",").replace("\\%", "%"))
    text = _SPACE.sub(" ", _NOTHING.sub("", text))
    for _ in range(4):
        text = _FONT.sub(r" \1 ", text)
    text = _ABOUT.sub("=", _TIMES.sub("*", text.replace("\\div", "/")))
    text = _FRACTION.sub(_as_quotient, _DEGREES.sub("° ", text))
    return " ".join(text.translate(_SIGNS).replace("**", "^").split())


def _as_quotient(found: re.Match[str]) -> str:
    above, below = found[1] or found[2], found[3] or found[4]
    return f" {above}/{below} "
