"""What a step of a recipe lacks, each in a line that tells the mend."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from datagen.schema import Level
from datagen.step import Operator, RowOperator

#: What there may be of a space.
SPACE_WORDS = ("texts", "images", "media", "collection")
_LEVELS: tuple[Level, ...] = ("items", "pairs", "triplets")


def absent(needs: set[str], have: set[str]) -> list[str]:
    """Needs that are not met; what hangs on a space that is missing is not told as well."""
    lacking = needs - have
    spaces = {need.removeprefix("space.") for need in lacking if need.startswith("space.")}
    hangs = {f"{kind}.{name}" for kind in SPACE_WORDS for name in spaces}
    return sorted(lacking - hangs)


def of_level(op: str, operator: Operator[Any], level: Level) -> str:
    """Why a step cannot stand where the table holds ``level``."""
    wants = " or ".join(operator.levels)
    if level == "items":
        mend = "put a 'pair' step before it"
    elif level == "pairs" and "triplets" in operator.levels:
        mend = "put a 'text' step before it"
    else:
        mend = "put it before the step that makes them"
    return f"'{op}' works on {wants}, but here the table holds {level}; {mend}"


def of_result(op: str, operator: Operator[Any], level: Level) -> str | None:
    """Why a step cannot make what it says that it makes; None where it can."""
    after = operator.leaves(level)
    makes = after != level or getattr(operator, "makes", False)
    if isinstance(operator, RowOperator) and makes:
        if after == "items" or _LEVELS.index(after) < _LEVELS.index(level):
            return f"'{op}' makes {after} of {level}, row by row; a TableOperator can do that"
        if after == "triplets" != level and "modification" not in operator.gives(level):
            return f"'{op}' makes triplets; 'modification' must be among what it gives"
    return None


def of_need(need: str, have: set[str], outdated: Collection[str] = ()) -> str:
    """Why ``need`` is not met; ``outdated``: spaces that lack items which a step has made since."""
    kind, _, name = need.partition(".")
    lacks = kind == "space" or (kind in SPACE_WORDS and name and f"space.{name}" not in have)
    if lacks and name in outdated:
        mend = (
            f"space '{name}' lacks the items that a step has made since; put 'embed: {{space: "
            f"{name}, model: …}}' behind that step, under an id of its own if it stands before, too"
        )
    elif lacks:
        mend = f"add 'embed: {{space: {name}, model: …}}' before it"
    elif kind in ("texts", "images"):
        what = "no texts can be put into" if kind == "texts" else "no images stand with texts in"
        mend = f"{what} space '{name}'; take one that a CLIP model (op: open_clip) makes" + (
            ", or a sentence encoder" if kind == "texts" else " of images"
        )
    elif kind == "media":
        mend = f"space '{name}' is not made of images and clips one by one; name one that is"
    elif kind == "earlier":
        mend = (
            f"put 'embed: {{space: {name}, model: …}}', of a model that takes texts, before the "
            "step that makes pairs or triplets of items"
        )
    elif need == "items.phash":
        mend = (
            "add 'filter: {op: duplicates}' before it, or, for items without media, "
            "set near_duplicates: false"
        )
    elif need == "items.media":
        mend = (
            "no source lists media; leave the step out (steps.ID=null), and for the split set "
            "near_duplicates: false"
        )
    elif need == "items.captions":
        mend = "name the caption column in the source"
    else:
        mend = "no earlier step or source gives it"
    known = sorted(word for word in have if word.partition(".")[0] == kind)
    return f"needs '{need}'; {mend}" + (f" (there is {', '.join(known)})" if known else "")
