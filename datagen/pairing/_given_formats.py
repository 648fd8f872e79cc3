"""What the rows of published annotation files say: who is paired with whom, and by which texts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datagen.ingest import clean_caption

#: The longest remark about a row (letters).
MOST_ABOUT = 160

_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


@dataclass(frozen=True)
class Draft:
    """A row as it stands: names of members, texts, the file's own score, a remark for readers."""

    reference: str
    targets: tuple[str, ...]
    texts: tuple[str, ...]
    score: float = math.nan
    about: str = ""


@dataclass(frozen=True)
class Columns:
    """The names of the columns of a file of no published format; ``text`` may be missing."""

    reference: str
    target: str
    text: str


class BadRow(Exception):
    """A row that does not say what its format promises."""


Row = Mapping[str, Any]


def _cirr(row: Row) -> Draft:
    # A weight of 1 in target_soft: judged to be as good as the target.
    target, soft = row.get("target_hard"), row.get("target_soft")
    more = [name for name, weight in soft.items() if weight == 1] if isinstance(soft, dict) else []
    group = row.get("img_set")
    remarks = {"pairid": row.get("pairid"), "img_set": _inside(group, "id")}
    return Draft(
        _name(row["reference"]),
        _all(target, more),
        texts(row.get("caption")),
        about=_about(remarks),
    )


def _fashioniq(row: Row) -> Draft:
    return Draft(_name(row["candidate"]), _all(row.get("target")), texts(row.get("captions")))


def _lasco(row: Row) -> Draft:
    reference, target = (_end(row[name]) for name in ("query-image", "target-image"))
    about = _about({"qid": row.get("qid")})
    return Draft(reference, _all(target), texts(row.get("query-text")), about=about)


def _covr(row: Row) -> Draft:
    score = _number(row.get("sim_txt"))
    return Draft(_name(row["pth1"]), _all(row.get("pth2")), texts(row.get("edit")), score)


def _circo(row: Row) -> Draft:
    targets = _all(row.get("target_img_id"), _listed(row.get("gt_img_ids")))
    remarks = {"id": row.get("id"), "shared concept": row.get("shared_concept")}
    text = texts(row.get("relative_caption"))
    return Draft(_name(row["reference_img_id"]), targets, text, about=_about(remarks))


def _egocvr(row: Row) -> Draft:
    targets = _all(None, _listed(row.get("target_clip_ids")))
    return Draft(_name(row["video_clip_id"]), targets, texts(row.get("instruction")))


def _shoes(row: Row) -> Draft:
    text = texts(row.get("RelativeCaption"))
    return Draft(_name(row["ReferenceImageName"]), _all(row.get("ImageName")), text)


def _megapairs(row: Row) -> Draft:
    return Draft(_name(row["q_img"]), _all(row.get("t_img")), texts(row.get("q_text")))


def _genecis(row: Row) -> Draft:
    reference, target = (_inside(row.get(name), "val_image_id") for name in ("reference", "target"))
    return Draft(_name(reference), _all(target), texts(row.get("condition")))


@dataclass(frozen=True)
class Format:
    """How the rows of a published file are read.

    columns: those by which a file of this format is known; read: makes a draft of a row; joined:
    whether the texts of a row are one text in the format's own protocol.
    """

    columns: tuple[str, ...]
    read: Callable[[Row], Draft]
    joined: bool = False


#: By name, in the order in which a file is compared with them.
FORMATS: dict[str, Format] = {
    "cirr": Format(("reference", "caption", "img_set"), _cirr),
    "fashioniq": Format(("candidate", "captions"), _fashioniq, joined=True),
    "lasco": Format(("query-image", "query-text"), _lasco),
    "covr": Format(("pth1", "pth2", "edit"), _covr),
    "circo": Format(("reference_img_id", "relative_caption"), _circo),
    "egocvr": Format(("video_clip_id", "target_clip_ids"), _egocvr),
    "shoes": Format(("ReferenceImageName", "ImageName"), _shoes),
    "megapairs": Format(("q_img", "t_img"), _megapairs),
    "genecis": Format(("reference", "target", "condition", "gallery"), _genecis),
}


def format_of(row: Row) -> str | None:
    """The published format that a row is of; None: none of them."""
    for name, one in FORMATS.items():
        if all(column in row for column in one.columns):
            return name
    return None


def draft(row: Row, kind: str, columns: Columns) -> Draft:
    """What a row of the format ``kind`` (``columns``: by the names of columns) says.

    Raises BadRow.
    """
    try:
        if kind == "columns":
            targets = _all(None, _listed(row.get(columns.target)))
            said = texts(_listed(row.get(columns.text)))
            return Draft(_name(row[columns.reference]), targets, said)
        return FORMATS[kind].read(row)
    except KeyError as error:
        raise BadRow(f"no '{error.args[0]}'") from error


def wanted(kind: str, columns: Columns) -> tuple[str, ...]:
    """The columns that a file of the format must have."""
    if kind == "columns":
        return (columns.reference, columns.target)
    return FORMATS[kind].columns


def texts(value: Any) -> tuple[str, ...]:
    """Texts of a cell, each one line, each once; blank ones do not count."""
    found = value if isinstance(value, (list, tuple)) else [value]
    lines = [clean(one) for one in found if isinstance(one, (str, int, float))]
    return tuple(dict.fromkeys(line for line in lines if line))


def joined(parts: Sequence[str], middle: str) -> tuple[str, ...]:
    """Several texts as one: ``is black and has straps``; what ends a sentence goes."""
    trimmed = [part.strip(" .,;!") for part in parts]
    return tuple(filter(None, [middle.join(one for one in trimmed if one)]))


def clean(text: Any) -> str:
    """One line that UTF-8 can hold."""
    plain = str(text)
    if not plain.isascii():
        plain = plain.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return clean_caption(plain)


def _name(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadRow(f"a name was expected, {value!r:.60} found")
    text = clean(value)
    if not text:
        raise BadRow("an empty name")
    return text


def _all(first: Any, more: Sequence[Any] = ()) -> tuple[str, ...]:
    """Names, each once; none where there are none: the files of test splits hide the targets."""
    given = [*([] if first in (None, "") else [first]), *more]
    return tuple(dict.fromkeys(_name(one) for one in given))


def _listed(value: Any) -> list[Any]:
    """A cell with a list: itself, as JSON, or as Python prints one; another value is one of it."""
    if isinstance(value, list):
        return value
    if value is None or value == "":
        return []
    if isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1:] == "]":
        try:
            found = json.loads(value)
            return found if isinstance(found, list) else [found]
        except (ValueError, RecursionError):
            # Without quotes it is no list but a text in brackets.
            return [one or two for one, two in _QUOTED.findall(value)] or [value]
    return [value]


def _end(value: Any) -> str:
    """The path of ``[id, path]``, or the id where there is no path."""
    found = value if isinstance(value, list) else [value]
    if not found:
        raise BadRow("an empty list where [id, path] was expected")
    return _name(found[-1])


def _inside(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _about(remarks: Mapping[str, Any]) -> str:
    told = [f"{key} {clean(value)}" for key, value in remarks.items() if value not in (None, "")]
    return ", ".join(told)[:MOST_ABOUT]
