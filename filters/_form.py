"""What is broken about the form of a text: characters, quotes, brackets, doubled words."""

from __future__ import annotations

import itertools
import re
import unicodedata

from datagen.filters._words import core, words

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


def malformed(text: str) -> str | None:
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


def repeated(text: str, captions: list[str]) -> str | None:
    """The first word that stands twice with only spaces between."""
    tokens = unicodedata.normalize("NFKC", text).casefold().split()
    for left, right in itertools.pairwise(tokens):
        word = core(left)
        if not word or not left.endswith(word) or not right.startswith(word):
            continue
        if core(right) != word or not any(map(str.isalpha, word)) or word in _DOUBLED:
            continue
        named = any(f" {word} {word} " in f" {' '.join(words(one))} " for one in captions)
        if word in _SMALL or not named:
            return word
    return None
