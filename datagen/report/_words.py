"""The words of modification texts: how many, which, and with which the texts begin."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from datagen.report._numbers import Array, share, sizes_of, summary

#: What is taken off both ends of a word.
MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~“”„‘’‚«»‹›…–—―·•¿¡、。，；：？！（）「」『』"
#: Texts of so many words or more share one entry of the histogram.
LONG = 100
#: Entries of lists of frequent texts, words and verbs.
MOST = 20

_BASES = [
    "add", "adjust", "apply", "be", "become", "begin", "blur", "bring", "brighten", "build",
    "capture", "carry", "change", "clean", "clear", "close", "color", "colour", "come", "convert",
    "cook", "cover", "crop", "crouch", "cut", "darken", "decorate", "decrease", "delete",
    "depict", "dim", "display", "draw", "dress", "drive", "drop", "dye", "eat", "eliminate",
    "enlarge", "erase", "exchange", "expand", "face", "fill", "find", "flip", "fly", "focus",
    "get", "give", "go", "grow", "hang", "have", "hold", "include", "increase", "insert",
    "invert", "jump", "keep", "lay", "lean", "leave", "let", "lie", "lift", "light", "lighten",
    "look", "lower", "make", "match", "mirror", "move", "narrow", "omit", "open", "paint", "park",
    "picture", "place", "play", "point", "pour", "press", "pull", "push", "put", "raise", "read",
    "recolor", "reduce", "remove", "render", "repaint", "replace", "restore", "resize", "ride",
    "rotate", "run", "sail", "see", "select", "sell", "serve", "set", "shift", "shoot", "show",
    "shrink", "simplify", "sit", "sleep", "slice", "slide", "spin", "stand", "start", "stay",
    "stop", "store", "stretch", "substitute", "surf", "surround", "swap", "swim", "switch",
    "take", "talk", "tilt", "touch", "transform", "turn", "use", "walk", "wash", "watch", "wear",
    "widen", "write", "zoom",
]  # fmt: skip
_IRREGULAR = {
    "is": "be", "are": "be", "was": "be", "were": "be", "being": "be", "been": "be", "am": "be",
    "has": "have", "had": "have", "having": "have", "made": "make", "taken": "take",
    "took": "take", "shown": "show", "shot": "shoot", "gone": "go", "given": "give",
    "gave": "give", "held": "hold", "kept": "keep", "left": "leave", "seen": "see", "saw": "see",
    "sat": "sit", "stood": "stand", "wore": "wear", "worn": "wear", "became": "become",
    "got": "get", "lying": "lie", "laid": "lay", "drawn": "draw", "ate": "eat", "eaten": "eat",
    "ran": "run", "rode": "ride", "ridden": "ride", "grew": "grow", "grown": "grow",
    "hung": "hang", "brought": "bring", "cut": "cut", "put": "put", "let": "let", "set": "set",
}  # fmt: skip


#: Words that a verb form after them is a noun by: ``the light``, ``in place of``.
_BEFORE_NOUNS = frozenset([
    "a", "an", "the", "its", "his", "her", "their", "this", "that", "these", "those", "in", "of",
    "on", "at", "with", "by", "from", "no", "some", "any",
])  # fmt: skip


def _forms() -> dict[str, str]:
    """Every form of the verbs by rule (-s, -ed, -ing, a doubled consonant), and the irregular."""
    forms = dict(_IRREGULAR)
    for base in _BASES:
        stem = base[:-1] if base.endswith("e") else base
        ends = {base, f"{base}s", f"{base}es", f"{stem}ing", f"{stem}ed", f"{base}ing"}
        ends |= {f"{base}ed", f"{base}{base[-1]}ing", f"{base}{base[-1]}ed"}
        if base.endswith("y"):
            ends |= {f"{base[:-1]}ies", f"{base[:-1]}ied"}
        for form in ends:
            forms.setdefault(form, base)
    return forms


_VERBS = _forms()


def words(text: str) -> list[str]:
    """Lower-case words: what white space parts, without marks at both ends, empty ones left out."""
    return [word for piece in text.lower().split() if (word := piece.strip(MARKS))]


def first_verb(found: list[str]) -> str | None:
    """The base form of the first known verb; ``the light``, ``in place of`` are none."""
    for before, word in zip(["", *found], found, strict=False):
        if word in _VERBS and before not in _BEFORE_NOUNS:
            return _VERBS[word]
    return None


@dataclass
class Words:
    """The words of every unique text as codes.

    lengths: words per text; tokens: all words of all texts, one text after another; first, verb:
    codes per text, -1 for none; names: the words and verbs by code.
    """

    lengths: Array
    tokens: Array
    first: Array
    verb: Array
    names: list[str]


def of_texts(texts: Any) -> Words:
    """Take the unique ``texts`` (an Arrow array) apart."""
    numbers: dict[str, int] = {}
    tokens, lengths, first, verb = array("i"), array("i"), array("i"), array("i")
    for text in texts:
        found = words(text.as_py() or "")
        codes = [numbers.setdefault(word, len(numbers)) for word in found]
        tokens.extend(codes)
        lengths.append(len(codes))
        first.append(codes[0] if codes else -1)
        known = first_verb(found)
        verb.append(-1 if known is None else numbers.setdefault(known, len(numbers)))
    columns = [np.array(one, dtype=np.int64) for one in (lengths, first, verb)]
    # Tokens are the bulk: 4 bytes each.
    return Words(columns[0], np.array(tokens, dtype=np.int32), columns[1], columns[2], [*numbers])


def figures(
    text: Array, texts: Any, known: Words, pair: Array, like: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Figures of the triplets whose texts (codes) and pairs (codes) these are.

    like: figures whose lists of frequent values are to be counted here, so that they compare.
    """
    if not len(text):
        return {}
    uses = np.bincount(text, minlength=len(known.lengths))
    used = uses > 0
    seen = known.tokens[np.repeat(used, known.lengths)]
    lengths = known.lengths[text]
    counts = np.bincount(np.minimum(lengths, LONG))
    names = {
        "frequent": (np.arange(len(uses)), texts),
        "first_words": (known.first, known.names),
        "first_verbs": (known.verb, known.names),
    }
    lists = {
        name: _frequent(codes, uses, of, len(text), like[name] if like else None)
        for name, (codes, of) in names.items()
    }
    return {
        "words": summary(lengths),
        "words_histogram": {str(n): int(count) for n, count in enumerate(counts) if count},
        "unique": int(used.sum()),
        "unique_share": share(int(used.sum()), len(text)),
        "repeated_share": share(int(uses[uses > 1].sum()), len(text)),
        "vocabulary": len(np.unique(seen)),
        "tokens": int(lengths.sum()),
        "per_pair": summary(sizes_of(pair)),
        **lists,
        "without_verb_share": share(int(uses[known.verb < 0].sum()), len(text)),
    }


def _frequent(
    codes: Array, uses: Array, names: Any, whole: int, like: list[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """The most frequent names of ``codes`` (one per text), weighted by the uses of the texts.

    What occurs once is not listed. like: count these values instead.
    """
    there = codes >= 0
    counts = np.bincount(codes[there], weights=uses[there]).astype(np.int64)
    if like is not None:
        found = {entry["code"]: entry["value"] for entry in like}
        held = [int(counts[code]) for code in found]
        return [
            {"value": value, "code": code, "count": n, "share": share(n, whole)}
            for (code, value), n in zip(found.items(), held, strict=True)
        ]
    best = np.argsort(-counts, kind="stable")[: 4 * MOST]
    best = best[counts[best] > 1]
    ordered = sorted((-int(counts[code]), _text(names[int(code)]), int(code)) for code in best)
    return [
        {"value": value, "code": code, "count": -n, "share": share(-n, whole)}
        for n, value, code in ordered[:MOST]
    ]


def _text(name: Any) -> str:
    return str(name.as_py() if hasattr(name, "as_py") else name)


def without_codes(found: dict[str, Any]) -> dict[str, Any]:
    """The figures as they are published: frequent values without their codes."""
    for name in ("frequent", "first_words", "first_verbs"):
        for entry in found.get(name, []):
            entry.pop("code")
    return found
