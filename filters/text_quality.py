"""Rejects modification texts that are no instruction: copies, leaks of the data, broken text.

Published sets show what goes wrong. InstructPix2Pix (arXiv:2211.09800) rejects a text that is the
caption itself; FineCIR strips openings such as "To transform the reference image"; texts of
TransAgg (arXiv:2306.07272) leak the name of their edit type. Each fault is a rule of its own.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from datagen.errors import DatagenError
from datagen.schema import Level
from datagen.step import Filter, Resources, Settings, verdicts

#: Phrases that speak of the data rather than of the change; "#" stands for a number.
LEAKS = (
    *(f"{which} {what}" for which in ("first", "second", "1st", "2nd", "reference", "target",
      "source", "query", "input", "output", "original", "edited", "modified")
      for what in ("image", "images", "picture", "photo", "caption", "video")),
    *(f"{what} #" for what in ("image", "picture", "photo", "caption", "video")),
    *("the caption", "the captions", "both images", "both captions", "these two images"),
    *("two images", "modification text", "to transform the image", "the removed word"),
    *("as an ai", "language model", "sure here", "i cannot", "instruction:", "caption:"),
    *("addition:", "cardinality:", "negation:", "removal:", "replacement:", "conjunction:"),
    *("direct addressing:", "compare and change:", "compare change:", "comparative statement:"),
    *("comparative:", "spatial relations:", "viewpoint:", "statement with conjunction:"),
)  # fmt: skip
_NUMBER = r"(?:\d{1,3}|one|two|three|four)"
_MOST_PHRASE = 100

#: A word twice in a row that is good English.
_DOUBLED = frozenset(
    ["very", "really", "so", "much", "many", "had", "that", "bye", "no", "ha", "cha", "choo"]
)
#: Never doubled on purpose, not even where a caption does.
_SMALL = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "to",
        "in",
        "on",
        "at",
        "with",
        "and",
        "or",
        "is",
        "are",
        "it",
        "by",
        "for",
        "from",
    ]
)

_JUNK = re.compile("[\x00-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff\ufffe\uffff]")
#: UTF-8 that was read as Latin-1 or Windows-1252.
_MOJIBAKE = re.compile("[ÃÂ][\u00a0-\u00bf]|â€")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,8});", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"\{[^{}]{0,80}\}|</?[a-z][^<>]{0,80}>|%s\b"
    r"|\[(?:mask|unk|pad|cls|sep|noun|verb|adjective|object|colou?r|removed|added)\]",
    re.IGNORECASE,
)
_SMILEY = re.compile(r"[:;]-?[()]|(?<!\w)\w\)")
_CLOSES = {")": "(", "]": "[", "}": "{"}
_QUOTES = (('"', re.compile(r'(?<!\d)"')), ("“”„", re.compile("(?<!\\d)[“”„]")))
_PIECE = re.compile(r"[^\W\d_]+")


class TextQualitySettings(Settings):
    """``min_words``, ``max_words``: bounds, included (null: no upper one); a word is what stands
    between spaces and has a letter or digit. ``copies_caption``: reject a text that is a caption
    of the reference or target. ``max_copied``: the largest share of the text that may be one run
    of words from the target's caption. ``common_leaks``: reject texts that speak of the data
    ("image 1", "reference image", "addition:"). ``leaks``: further phrases; they match whole
    words in any case, "#" stands for a number and a colon at the end for itself. ``malformed``:
    reject broken characters, quotes, brackets and left-over placeholders. ``repeated_word``:
    reject a word twice in a row, unless a caption says so too (a name).
    """

    min_words: int = Field(1, ge=0)
    max_words: int | None = Field(60, ge=1)
    copies_caption: bool = True
    max_copied: float | None = Field(None, ge=0, le=1)
    common_leaks: bool = True
    leaks: tuple[str, ...] = ()
    malformed: bool = True
    repeated_word: bool = True

    @model_validator(mode="after")
    def _bounds(self) -> TextQualitySettings:
        if self.max_words is not None and self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is above max_words ({self.max_words})")
        return self


class TextQuality(Filter[TextQualitySettings]):
    """Scores ``score_words`` (number of words), ``score_copied`` (longest run of words shared
    with a target's caption, as share of the text's words, 0 to 1, 4 decimals) and
    ``score_is_caption`` (1 where the text is a caption of the pair but for case and punctuation).

    Rejects as ``too_short``, ``too_long``, ``malformed``, ``leak``, ``repeated_word`` or
    ``copies_caption``; the first that applies. The detail names what was found.
    """

    Settings = TextQualitySettings
    levels = ("triplets",)
    rules = frozenset(TextQualitySettings.model_fields)

    def __init__(self, settings: TextQualitySettings) -> None:
        """Raises DatagenError where a phrase in ``leaks`` cannot be looked for."""
        super().__init__(settings)
        phrases = [*(LEAKS if settings.common_leaks else ()), *settings.leaks]
        self._anchors, self._leak = _phrases(phrases)

    def needs(self, level: Level) -> set[str]:
        return {"pairs", "modification"}

    def gives(self, level: Level) -> set[str]:
        return {"score_words", "score_copied", "score_is_caption"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "modification", "references", "targets"]

    def resources(self) -> Resources:
        return Resources(batch_size=4096)

    def __call__(self, rows: pa.Table) -> pa.Table:
        texts = rows["modification"].to_pylist()
        references, targets = _captions(rows["references"]), _captions(rows["targets"])
        found = [_measure(*row) for row in zip(texts, references, targets, strict=True)]
        columns = list(zip(*found, strict=True)) if found else [(), (), ()]
        names = ("score_words", "score_copied", "score_is_caption")
        scores = {
            name: pa.array(values, pa.float64())
            for name, values in zip(names, columns, strict=True)
        }
        return pa.table({"id": rows["id"], **scores})

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        ids, texts = rows["id"].to_pylist(), rows["modification"].to_pylist()
        references, targets = _captions(rows["references"]), _captions(rows["targets"])
        scores = [rows[name].to_pylist() for name in ("score_words", "score_copied")]
        same = rows["score_is_caption"].to_pylist()
        rejected = {}
        for at, (name, text) in enumerate(zip(ids, texts, strict=True)):
            fault = (
                self._length(int(scores[0][at]))
                or self._wording(text or "", [*references[at], *targets[at]])
                or self._copy(scores[1][at], bool(same[at]), text or "", targets[at])
            )
            if fault:
                rejected[name] = fault
        return verdicts(ids, rejected)

    def _length(self, words: int) -> tuple[str, str] | None:
        least, most = self.settings.min_words, self.settings.max_words
        if words < least:
            return "too_short", f"{words} words < {least}"
        if most is not None and words > most:
            return "too_long", f"{words} words > {most}"
        return None

    def _wording(self, text: str, captions: list[str]) -> tuple[str, str] | None:
        if self.settings.malformed and (fault := _malformed(text)):
            return "malformed", fault
        if leak := self._leaked(text):
            return "leak", f"'{leak}'"
        if self.settings.repeated_word and (word := _repeated(text, captions)):
            return "repeated_word", f"'{word} {word}'"
        return None

    def _leaked(self, text: str) -> str | None:
        """The first phrase found; the search runs only where a telling word stands in the text."""
        if self._leak is None:
            return None
        plain = unicodedata.normalize("NFKC", text).casefold()
        if self._anchors is not None and self._anchors.isdisjoint(_PIECE.findall(plain)):
            return None
        found = self._leak.search(plain)
        return found.group() if found else None

    def _copy(
        self, copied: float, same: bool, text: str, targets: list[str]
    ) -> tuple[str, str] | None:
        if self.settings.copies_caption and same:
            words = _words(text)
            side = "target" if any(_words(one) == words for one in targets) else "reference"
            return "copies_caption", f"the text is the caption of the {side}"
        most = self.settings.max_copied
        if most is not None and copied > most:
            return (
                "copies_caption",
                f"{copied:.4f} of the text from the target's caption > {most:g}",
            )
        return None


def _phrases(phrases: Iterable[str]) -> tuple[frozenset[str] | None, re.Pattern[str] | None]:
    """Words of which a text with any phrase has one (None: any text may), and the search.

    Phrases become literals between runs of separators, so the search is linear in the text.
    """
    anchors: set[str] = set()
    sought: list[str] = []
    anywhere = False
    for phrase in phrases:
        plain = unicodedata.normalize("NFKC", phrase).casefold()
        parts = re.findall(r"#|[^\W_]+", plain)
        if len(phrase) > _MOST_PHRASE or not any(part != "#" for part in parts):
            raise DatagenError(
                f"text_quality.leaks: {phrase[:_MOST_PHRASE]!r}: a phrase with a letter or digit "
                f"and of at most {_MOST_PHRASE} characters expected"
            )
        pieces = _PIECE.findall(" ".join(parts))
        anchors.update([max(pieces, key=len)] if pieces else [])
        anywhere |= not pieces
        pattern = re.escape(parts[0]) if parts[0] != "#" else _NUMBER
        for part in parts[1:]:
            pattern += rf"[\W_]*{_NUMBER}" if part == "#" else rf"[\W_]+{re.escape(part)}"
        end = r"\s*:" if plain.rstrip().endswith(":") else r"(?!\w)"
        sought.append(rf"(?<!\w){pattern}{end}")
    if not sought:
        return None, None
    return None if anywhere else frozenset(anchors), re.compile("|".join(sought))


def _captions(column: pa.ChunkedArray) -> list[list[str]]:
    """Captions of the members of every row; members without one are left out."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = lists.flatten().field("caption").to_pylist()
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths).tolist()
    return [
        [one for one in flat[begin:end] if one]
        for begin, end in zip([0, *ends], ends, strict=False)
    ]


def _core(token: str) -> str:
    """The token without punctuation and signs around it."""
    begin, end = 0, len(token)
    while begin < end and _is_edge(token[begin]):
        begin += 1
    while end > begin and _is_edge(token[end - 1]):
        end -= 1
    return token[begin:end]


def _is_edge(letter: str) -> bool:
    # Vowel signs of many scripts are marks, and part of the word.
    return not letter.isalnum() and unicodedata.category(letter)[0] != "M"


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [core for token in plain.split() if (core := _core(token))]


def _measure(
    text: str | None, references: list[str], targets: list[str]
) -> tuple[float, float, float]:
    words = _words(text or "")
    if not words:
        return 0.0, 0.0, 0.0
    aims = [_words(caption) for caption in targets]
    longest = max((_longest_run(words, aim) for aim in aims), default=0)
    same = any(words == other for other in (*aims, *map(_words, references)))
    return float(len(words)), round(longest / len(words), 4), float(same)


def _longest_run(words: list[str], caption: list[str]) -> int:
    """Length of the longest run of words that both have."""
    held = f" {' '.join(caption)} "
    best = 0
    for end in range(1, len(words) + 1):
        if end > best and f" {' '.join(words[end - best - 1 : end])} " in held:
            best += 1
    return best


def _malformed(text: str) -> str | None:
    """What is broken about the text, in words."""
    text = text.strip()
    if junk := _JUNK.search(text):
        return f"character U+{ord(junk.group()):04X}"
    for what, pattern in (
        ("wrongly decoded", _MOJIBAKE),
        ("markup", _ENTITY),
        ("placeholder", _PLACEHOLDER),
    ):
        if found := pattern.search(text):
            return f"{what} '{found.group()}'"
    if not any(letter.isalpha() for letter in text):
        return "no letter"
    return _unbalanced(text)


def _unbalanced(text: str) -> str | None:
    for quotes, not_inches in _QUOTES:
        # 15" is a length: a quote after a digit counts only where that makes pairs.
        if sum(map(text.count, quotes)) % 2 and len(not_inches.findall(text)) % 2:
            return f"unbalanced quote {quotes[0]}"
    if not any(bracket in text for bracket in "()[]{}"):
        return None
    opened: list[str] = []
    for letter in _SMILEY.sub("", text) if text.count("(") != text.count(")") else text:
        if letter in "([{":
            opened.append(letter)
        elif letter in _CLOSES and (not opened or opened.pop() != _CLOSES[letter]):
            return f"unbalanced bracket {letter}"
    return f"unbalanced bracket {opened[-1]}" if opened else None


def _repeated(text: str, captions: list[str]) -> str | None:
    """The first word that stands twice with only spaces between."""
    tokens = unicodedata.normalize("NFKC", text).casefold().split()
    for left, right in itertools.pairwise(tokens):
        word = _core(left)
        if not word or not left.endswith(word) or not right.startswith(word):
            continue
        if _core(right) != word or not any(map(str.isalpha, word)) or word in _DOUBLED:
            continue
        named = any(f" {word} {word} " in f" {' '.join(_words(one))} " for one in captions)
        if word in _SMALL or not named:
            return word
    return None
