"""What no modification text says: words of the data and of the prompt, and a model that speaks.

Phrases are looked for by :class:`Phrases`, forms of answers by :func:`artefact`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from datagen.errors import DatagenError

#: Phrases that speak of the data rather than of the change; "#" stands for a number.
DATA = (
    *(f"{which} {what}" for which in ("first", "second", "1st", "2nd", "reference", "target",
      "source", "query", "input", "output", "original", "edited", "modified")
      for what in ("image", "images", "picture", "photo", "caption", "video", "description")),
    *(f"{what} #" for what in ("image", "picture", "photo", "caption", "video", "description")),
    *("the caption", "the captions", "both images", "both captions", "these two images"),
    *("two images", "two captions", "two descriptions", "both descriptions", "this caption"),
    *("the descriptions", "this description", "the description of", "as described in"),
    *("modification text", "to transform the image", "the removed word", "the added word"),
    *("instruction:", "caption:", "description:", "modification:", "modified:", "in hand:"),
)  # fmt: skip
#: Names of kinds of change, as CIRR, CIRCO and TransAgg use them, and what systems call themselves.
KINDS = (
    *("addition:", "cardinality:", "negation:", "removal:", "replacement:", "conjunction:"),
    *("direct addressing:", "compare and change:", "compare change:", "comparative statement:"),
    *("comparative:", "spatial relations:", "viewpoint:", "statement with conjunction:"),
    *("negation", "cardinality", "direct addressing", "comparative statement", "compare change"),
    *("spatial relations background", "statement with conjunction", "edit type", "change type"),
)
#: A model that will not, cannot, or sees nothing to tell.
REFUSALS = (
    *("i cannot", "i can't", "i can not", "i am unable", "i'm unable", "i am not able"),
    *("i'm not able", "i'm sorry", "i am sorry", "i apologize", "i apologise", "i do not have"),
    *("i don't have", "i won't", "i will not", "as an ai", "as a language model"),
    *("as a large language model", "language model", "ai assistant", "unable to provide"),
    *("unable to determine", "unable to generate", "cannot assist", "can't assist"),
    *("cannot be determined", "cannot determine", "not enough information"),
    *("no difference", "no differences", "no visible difference", "no modification"),
    *("no modifications", "no change needed", "no changes needed", "no change is needed"),
    *("no changes are needed", "are identical", "not applicable"),
)

_NUMBER = r"(?:\d{1,3}|one|two|three|four)"
_MOST_PHRASE = 100
_PIECE = re.compile(r"[^\W\d_]+")

_OPENING = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|ok|understood|great)\s*[,!.:–—-]"
    r"|sure here\b|here(?:'s| is| are|’s)\s(?:\S{1,30}\s){0,6}(?:instruction|modification|request"
    r"|text|edit|change|caption|answer|suggestion|rewrite|version|option|description|result)s?\b"
    r"|(?:the |final |my )?(?:answer|output|response|reply|result|request|edit|text|change|query"
    r"|prompt|json|option|example|explanation|assistant|user|system)s?(?:\s?\d{1,2})?\s*:"
    r"|to (?:transform|convert|turn|change|modify|edit|match|achieve|go from)"
    r" (?:the |this )?(?:first|reference|source|original|given|image|picture|photo|video)\b"
    r"|based on the (?:given|provided|two|caption|description|image)",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"\b(?:let me know (?:if|whether)|hope (?:this|that) helps|feel free to ask|please note that"
    r"|note that this|explanation:|reasoning:)",
    re.IGNORECASE,
)
_KIND = re.compile(
    r"[(\[*_]\s{0,3}(?:addition|removal|replacement|negation|cardinality|conjunction|comparative"
    r"|viewpoint|comparison|attribute change|style change|background change)\s{0,3}[)\]*_]",
    re.IGNORECASE,
)
_MARKDOWN = re.compile(
    r"```|\*\*[^*\s]|__[^_\s][^_]{0,80}__|^\s{0,3}#{1,6}\s|`[^`\s][^`]{0,80}`|^\s{0,3}[*•–]\s"
    r"|^\s{0,3}-\s|^\s{0,3}>\s|\]\(https?:"
)
_NUMBERING = re.compile(
    r"^\s{0,3}(?:\(?\d{1,2}[.)]|\(?[a-h]\)|[A-H]\.)\s+\S|^\s{0,3}step \d{1,2}\b",
    re.IGNORECASE,
)
_JSON = re.compile(r'^\s{0,3}[\[{]\s{0,3}"|"\s{0,3}[\]}]|"\s{0,3}:\s{0,3}["\[{]|"\s{0,3},\s{0,3}"'
                   r'|\\["nrtu]|"\s{0,3},\s{0,3}$')  # fmt: skip
_TOKEN = re.compile(r"<\||\|>|\[/?INST\]|<</?SYS>>|</?s>|<0x[0-9A-F]{2}>|</?think", re.IGNORECASE)


class Phrases:
    """A search for ``phrases``: whole words in any case, "#" a number, ":" at the end itself.

    Phrases become literals between runs of separators, so the search is linear in the text.
    Raises DatagenError where a phrase cannot be looked for.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        #: Words of which a text with any phrase has one; None: any text may have one.
        self._anchors: frozenset[str] | None = None
        self._search: re.Pattern[str] | None = None
        anchors: set[str] = set()
        sought: list[str] = []
        anywhere = False
        for phrase in phrases:
            plain = _plain(phrase)
            parts = re.findall(r"#|[^\W_]+", plain)
            if len(phrase) > _MOST_PHRASE or not any(part != "#" for part in parts):
                raise DatagenError(
                    f"text_quality.leaks: {phrase[:_MOST_PHRASE]!r}: a phrase with a letter or "
                    f"digit and of at most {_MOST_PHRASE} characters expected"
                )
            pieces = _PIECE.findall(" ".join(parts))
            anchors.update([max(pieces, key=len)] if pieces else [])
            anywhere |= not pieces
            end = r"\s*:" if plain.rstrip().endswith(":") else r"(?!\w)"
            sought.append(rf"(?<!\w){_pattern(parts)}{end}")
        if sought:
            self._anchors = None if anywhere else frozenset(anchors)
            self._search = re.compile("|".join(sought))

    def find(self, text: str) -> str | None:
        """The first phrase found; the search runs only where a telling word stands in the text."""
        if self._search is None:
            return None
        plain = _plain(text)
        if self._anchors is not None and self._anchors.isdisjoint(_PIECE.findall(plain)):
            return None
        found = self._search.search(plain)
        return found.group() if found else None


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _pattern(parts: list[str]) -> str:
    pattern = re.escape(parts[0]) if parts[0] != "#" else _NUMBER
    for part in parts[1:]:
        pattern += rf"[\W_]*{_NUMBER}" if part == "#" else rf"[\W_]+{re.escape(part)}"
    return pattern


def artefact(text: str) -> str | None:
    """What of a model's answer was left in the text, in words: its openings and closings, the
    name of a kind of change, markdown, numbering, JSON, special tokens.
    """
    text = text.strip()
    if found := _OPENING.match(text):
        return f"opening '{found.group()}'"
    for what, pattern in (
        ("token", _TOKEN),
        ("kind of change", _KIND),
        ("markdown", _MARKDOWN),
        ("numbering", _NUMBERING),
        ("JSON", _JSON),
        ("closing", _CLOSING),
    ):
        if found := pattern.search(text):
            return f"{what} '{found.group().strip()}'"
    return None
