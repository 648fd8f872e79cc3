"""Reads a change of a label, such as "baseColour" from red to blue."""

from __future__ import annotations

import re

from datagen.texts import _lexicon as lexicon
from datagen.texts._places import Reading, clean, places_of, reading_of
from datagen.texts._sentences import Kind
from datagen.texts._words import common, gerund

#: Names of fields whose changes are words of the captions rather than labels.
CAPTION_FIELDS = frozenset(
    ["", "word", "words", "caption", "captions", "text", "title", "phrase", "token", "narration"]
)
#: Last words of the names of labels that say where a thing is kept.
_CODED = frozenset(
    [
        *("id", "ids", "uid", "uuid", "guid", "key", "sha256", "md5", "hash"),
        *("path", "file", "filename", "url", "uri", "link"),
    ]
)
#: The same for values with digits: what counts or names videos, clips and moments.
_NUMBERED = frozenset(
    [
        *("video", "clip", "image", "photo", "picture", "scene", "shot", "frame", "episode"),
        *("start", "stop", "end", "timestamp", "time", "position", "index", "number"),
    ]
)
_CODE = re.compile(
    r"(?=\S*\d)[^\W_]+(_[^\W_]+)+"  # P02_02
    r"|\d{5,}(\.\d+)?"  # 1305012345
    r"|(?=\S*\d)(?=\S*[a-f])[0-9a-f]{8,}(-[0-9a-f]{4,})*"  # 3f2a9c1e-...
    r"|\S*[/\\]\S*\.\w+|https?://\S+|s3://\S+"
    r"|\S+\.(mp4|webm|mkv|avi|mov|jpe?g|png|webp|gif)",
    re.IGNORECASE,
)
_NAMES = frozenset(["brand", "name", "model", "maker", "designer", "artist", "city", "country"])


def read_label(
    old: str | None, new: str | None, field: str, reference: str, target: str
) -> Reading | None:
    """A label that differs: "baseColour" red, blue."""
    if "?" in field or len(field.split()) > 3:
        return reading_of(Kind.ANSWER, old, new, field=" ".join((clean(field) or "").split()) + "?")
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", field)
    name = " ".join(re.sub(r"[\W_]+", " ", name).lower().split())
    last = name.rsplit(" ", 1)[-1]
    if last not in _NAMES:
        old, new = (" ".join(map(common, text.split())) if text else None for text in (old, new))
    values = [value for value in (old, new) if value]
    if last in ("colour", "color"):
        places = places_of(old, new, reference, target)
        here = next((place for place in places[::-1] if place is not None), None)
        head = here.head if here is not None else ""
        return reading_of(Kind.COLOUR_OF if head else Kind.COLOUR, old, new, head=head)
    if last in ("gender", "audience", "sex") and all(v in lexicon.AUDIENCES for v in values):
        groups = [lexicon.AUDIENCES[value] if value else None for value in (old, new)]
        return None if groups[0] == groups[1] else reading_of(Kind.FOR, *groups)
    if last == "season" and all(value in lexicon.SEASONS for value in values):
        return reading_of(Kind.FOR, old, new)
    if last in ("verb", "action", "activity"):
        return reading_of(Kind.ACTION, *_doing(old, new))
    if last in ("noun", "object"):
        old, new = (_in_order(value) if value else None for value in (old, new))
        definite, other = (_definite(value) if value else "" for value in (old, new))
        return reading_of(Kind.NOUN, old, new, r=definite, the_r=definite, a=other)
    return reading_of(Kind.LABEL, old, new, field=name or "label")


def is_code(field: str, removed: str | None, added: str | None) -> bool:
    """Whether a label is a name that nobody can see: the id of a video, a path, a time stamp.

    It is told by the last word of the field, or by one of the values: letters and digits joined by
    "_", digits alone from five on, long hexadecimal numbers, paths, addresses, file names.
    """
    if field.lower() in CAPTION_FIELDS or "?" in field:
        return False
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", field)
    last = (re.split(r"[\W_]+", words.lower().strip("_ ")) or [""])[-1]
    if last in _CODED:
        return True
    values = [value.strip() for value in (removed, added) if value]
    if last in _NUMBERED and any(re.search(r"\d", value) for value in values):
        return True
    return any(_CODE.fullmatch(value) for value in values)


def _in_order(noun: str) -> str:
    """ "board:chopping", as EPIC-KITCHENS writes a noun, in the order of a sentence."""
    if not re.fullmatch(r"[^\W\d_]+(-[^\W\d_]+)*(:[^\W\d_]+(-[^\W\d_]+)*)+", noun):
        return noun
    return " ".join(reversed(noun.split(":")))


def _definite(noun: str) -> str:
    """ "the chopping board", "more water"."""
    counted = noun.split(" ", 1)[0] in lexicon.QUANTIFIERS - {"other"}
    return noun if counted else f"the {noun}"


def _doing(old: str | None, new: str | None) -> tuple[str | None, str | None]:
    """ "pour-into" and "scoop" as "pouring" and "scooping": what follows into is in no label."""
    verbs = [value.replace("-", " ") if value else None for value in (old, new)]
    bare = [
        re.sub(r" (into|onto|to|from|with|of|at|for)$", "", verb) if verb else None
        for verb in verbs
    ]
    chosen = verbs if bare[0] == bare[1] else bare
    first, second = (gerund(verb) if verb else None for verb in chosen)
    return first, second
