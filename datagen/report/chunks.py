"""The rows of a report as files of data that a page can load from a disk, without a server.

A page that was opened from a folder may load scripts but not fetch files, so each file is a
script of one call: ``datagenReport(kind, number, data)``. Data is JSON in which no character
stands that could end a script element or a line of code.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datagen import schema, store
from datagen.report.pictures import Picture
from datagen.report.rows import FACETS

#: Entries of one file: rows, members, and texts to search in.
ROWS, MEMBERS, TEXTS = 200, 500, 5000
#: Characters of a text that the page holds.
LONGEST = 2000

_ESCAPES = {char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029\x7f"}


def as_script(value: Any) -> str:
    """``value`` as JSON that can stand in a script element as well as in a script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char, escaped in _ESCAPES.items():
        text = text.replace(char, escaped)
    return text


def cut(text: str | None) -> str | None:
    """``text``, or its beginning with the number of characters that are left out."""
    if text is None or len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more characters)"


@dataclass(frozen=True)
class Listing:
    """The rows of a report, ready to be written.

    members: every item in the words in which rows use it; references, targets, negatives: per
    row the numbers of its members; scores: column names in the order of the page.
    """

    rows: pa.Table
    members: list[dict[str, Any]]
    references: list[list[int]]
    targets: list[list[int]]
    negatives: list[list[int]]
    scores: list[str]

    def pictured(self, kept: int, lost: int) -> dict[str, Mapping[str, Any]]:
        """Media by item id of the rows that get pictures.

        These are the first ``kept`` of the kept rows and the first ``lost`` of each rule; the
        pictures of negatives come last, and are left out where there would be too many.
        """
        names = zip(*(self.rows[name].to_pylist() for name in FACETS), strict=True)
        seen: dict[tuple[Any, ...], int] = {}
        chosen = []
        for number, (level, verdict, step, rule, _) in enumerate(names):
            good = verdict == schema.KEPT
            group = (level, verdict) if good else (level, verdict, step, rule)
            seen[group] = seen.get(group, 0) + 1
            if seen[group] <= (kept if good else lost):
                chosen.append(number)
        found: dict[str, Mapping[str, Any]] = {}
        most = 4 * len(chosen)
        for lists in (self.references, self.targets, self.negatives):
            for number in chosen:
                for at in lists[number]:
                    member = self.members[at]
                    room = lists is not self.negatives or len(found) < most
                    if member["media"] is not None and room:
                        found.setdefault(member["id"], member["media"])
        return found


def listing(rows: pa.Table) -> Listing:
    """Number the members of ``rows``; those that are the same in the same words are one."""
    lists = {name: _numbers(rows[name]) for name in ("references", "targets", "negatives")}
    flat = [_flat(rows[name]) for name in lists]
    joined = pa.concat_arrays([one.cast(schema.MEMBER) for one in flat])
    keys = pd.MultiIndex.from_arrays(
        [joined.field(name).to_pandas() for name in ("id", "caption")]
    ).to_flat_index()
    codes, unique = pd.factorize(keys)
    first = pd.Series(np.arange(len(codes))).groupby(codes).first().to_numpy()
    assert len(first) == len(unique)
    members = joined.take(pa.array(first, pa.int64())).to_pylist()
    numbered: dict[str, list[list[int]]] = {}
    start = 0
    for (name, ends), values in zip(lists.items(), flat, strict=True):
        part = codes[start : start + len(values)].tolist()
        numbered[name] = [part[a:b] for a, b in itertools.pairwise(ends)]
        start += len(values)
    scores = sorted(name for name in rows.column_names if name.startswith("score_"))
    return Listing(rows, members, scores=scores, **numbered)


def _numbers(column: pa.ChunkedArray) -> list[int]:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return [0, *np.cumsum(lengths).tolist()]


def _flat(column: pa.ChunkedArray) -> pa.Array:
    values = column.combine_chunks().flatten()
    return values.field("item") if "item" in [f.name for f in values.type] else values


def numbers(column: pa.ChunkedArray) -> list[float | None]:
    """Finite numbers of a score column, None for the others."""
    return [
        None if value is None or not math.isfinite(value) else round(value, 6)
        for value in column.to_pylist()
    ]


def index(shown: Listing, places: Mapping[str, Picture | str]) -> dict[str, Any]:
    """What sorting and filtering need of every row, column by column."""
    rows = shown.rows
    facets = {}
    for name in FACETS:
        values = rows[name].to_pylist()
        known = sorted({value for value in values if value is not None})
        numbered = {None: -1, **{value: number for number, value in enumerate(known)}}
        facets[name] = {"values": known, "codes": [numbered[value] for value in values]}
    pictured = [
        int(any(isinstance(places.get(shown.members[at]["id"]), Picture) for at in (*r, *t)))
        for r, t in zip(shown.references, shown.targets, strict=True)
    ]
    words = [len(text.split()) if text else None for text in rows["modification"].to_pylist()]
    return {
        "ids": rows["id"].to_pylist(),
        "facets": facets,
        "scores": [numbers(rows[name]) for name in shown.scores],
        "mined": numbers(pc.struct_field(rows["evidence"], "score")),
        "words": words,
        "pictured": pictured,
    }


def write(shown: Listing, places: Mapping[str, Picture | str], folder: str) -> int:
    """Write the files of ``shown`` to ``folder``; returns how many bytes they have."""
    count = shown.rows.num_rows

    def put(job: tuple[str, int, Any]) -> int:
        kind, number, value = job
        data = f'datagenReport("{kind}",{number},{as_script(value)});\n'.encode()
        with store.writing(store.join(folder, f"{kind}-{number}.js"), durable=False) as file:
            file.write(data)
        return len(data)

    jobs: list[tuple[str, int, Any]] = [("index", 0, index(shown, places))]
    jobs += [("texts", at // TEXTS, texts(shown, at)) for at in range(0, count, TEXTS)]
    jobs += _details(shown, places)
    for at in range(0, len(shown.members), MEMBERS):
        part = [_member(member, places) for member in shown.members[at : at + MEMBERS]]
        jobs.append(("members", at // MEMBERS, part))
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(put, jobs))


def texts(shown: Listing, start: int) -> list[str]:
    """What a search looks through, for the rows from ``start``: text and captions."""
    found = []
    wanted = shown.rows["modification"].slice(start, TEXTS).to_pylist()
    for number, text in enumerate(wanted, start):
        members = (*shown.references[number], *shown.targets[number])
        captions = [cut(shown.members[at]["caption"]) for at in dict.fromkeys(members)]
        found.append("\n".join(part for part in (cut(text), *captions) if part))
    return found


def _details(
    shown: Listing, places: Mapping[str, Picture | str]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    columns = ("modification", "detail", "pair", "evidence", "provenance")
    for start in range(0, shown.rows.num_rows, ROWS):
        part = shown.rows.slice(start, ROWS)
        members: dict[int, int] = {}
        lines: dict[str, int] = {}
        negatives = part["negatives"].combine_chunks().flatten()
        far = zip(*(negatives.field(name).to_pylist() for name in ("kind", "score")), strict=True)
        values = [part[name].to_pylist() for name in columns]
        rows = []
        for number, (text, detail, pair, evidence, provenance) in enumerate(
            zip(*values, strict=True), start
        ):
            used = [
                [members.setdefault(at, len(members)) for at in lists[number]]
                for lists in (shown.references, shown.targets)
            ]
            steps = [as_line(line) for line in provenance or []]
            rows.append(
                {
                    "text": cut(text),
                    "detail": cut(detail),
                    "pair": pair,
                    "references": used[0],
                    "targets": used[1],
                    "negatives": [[*next(far), at] for at in shown.negatives[number]],
                    "evidence": _evidence(evidence),
                    "provenance": [lines.setdefault(line, len(lines)) for line in steps],
                }
            )
        known = [{"number": at, **_tile(shown.members[at], places)} for at in members]
        told = [json.loads(line) for line in lines]
        yield "rows", start // ROWS, {"members": known, "provenance": told, "rows": rows}


def as_line(line: Mapping[str, Any]) -> str:
    """A line of provenance as one text, without what it leaves open."""
    return json.dumps({key: cut(str(v)) for key, v in line.items() if v is not None})


def _evidence(evidence: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if evidence is None:
        return None
    changes = [
        {key: cut(change[key]) for key in ("field", "removed", "added")}
        for change in evidence["changes"] or []
    ]
    told = {"operator": evidence["operator"], "reason": cut(evidence["reason"])}
    return {**told, "changes": changes}


def _tile(member: Mapping[str, Any], places: Mapping[str, Picture | str]) -> dict[str, Any]:
    """What a card shows of a member: its picture, or the reason why there is none."""
    found: dict[str, Any] = {"id": member["id"], "caption": cut(member["caption"])}
    media: Mapping[str, Any] | None = member["media"]
    if media is None:
        return found
    found["modality"] = media["modality"]
    if media["seconds"] is not None:
        found["seconds"] = media["seconds"]
    place = places.get(member["id"])
    if isinstance(place, str):
        found["fault"] = place
    elif place is not None:
        found["picture"] = [
            *(place.sheet, place.x, place.y, place.width, place.height),
            *(place.frames, place.seconds),
        ]
    return found


def _member(member: Mapping[str, Any], places: Mapping[str, Picture | str]) -> dict[str, Any]:
    """All that the page holds of a member. Paths stay out: a page may be shown to others."""
    found = _tile(member, places)
    found.update(key=cut(member["key"]), source=member["source"], labels=cut(member["labels"]))
    media: Mapping[str, Any] | None = member["media"]
    if media is not None:
        about = ("format", "width", "height", "frames", "size", "sha256")
        found["media"] = {name: media[name] for name in about if media[name] is not None}
    return found
