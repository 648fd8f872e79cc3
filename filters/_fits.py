"""Items that fit a row as well as its target: how they are known, and what becomes of the row."""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen import schema

Array = np.ndarray[Any, Any]

#: An item that fits, and by how much it is nearer to the query than the target.
FOUND = pa.list_(pa.struct([("id", pa.string()), ("lead", pa.float64())]))
_EXAMPLES = 3
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


def words(text: str | None) -> str:
    """A text as it counts when texts are compared: without case and punctuation."""
    folded = unicodedata.normalize("NFC", (text or "").casefold())
    return " ".join(folded.translate(_PLAIN).split())


class _Plain(dict[int, str]):
    """For ``str.translate``: letters, numbers and the marks upon them stay, all else parts words.

    Marks are vowels in many scripts; only those that choose how a sign is drawn say nothing.
    """

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        kind = unicodedata.category(letter)
        said = kind[0] in "LN" or (kind in ("Mn", "Mc") and not _drawn(code))
        return self.setdefault(code, letter if said else " ")


def _drawn(code: int) -> bool:
    """Whether a mark is a variation selector."""
    return 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF


_PLAIN = _Plain()


def labels(text: str | None, names: Sequence[str]) -> str:
    """The labels ``names`` (all where there is none) of a JSON object; empty where one lacks."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    chosen = {name: found.get(name) for name in names or found}
    unknown = [value is None for value in chosen.values()]
    lacks = all(unknown) or (bool(names) and any(unknown))
    return "" if lacks else schema.canonical_json(chosen)


class Known:
    """Ids by the keys that each item goes by: 28 bytes a key, whatever its length."""

    def __init__(self, ids: pa.ChunkedArray, keys: Iterable[Sequence[str]]) -> None:
        owner: list[int] = []
        hashes: list[int] = []
        for number, own in enumerate(keys):
            owner += [number] * len(own)
            hashes += map(_hashed, own)
        order = np.argsort(np.array(hashes, np.uint64), kind="stable")
        self._hashes: Array = np.array(hashes, np.uint64)[order]
        names = np.asarray(ids.to_pylist(), dtype="S")
        self._names: Array = names[np.array(owner, np.int64)[order]] if owner else names[:0]

    def of(self, keys: Iterable[str]) -> set[str]:
        """Ids of the items that go by any of ``keys``."""
        found: set[str] = set()
        for key in keys:
            hashed = np.uint64(_hashed(key))
            low, high = (int(np.searchsorted(self._hashes, hashed, side)) for side in _SIDES)
            found.update(str(name, "ascii") for name in self._names[low:high])
        return found


def _hashed(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def member_ids(column: pa.ChunkedArray) -> list[list[str]]:
    """Ids of the members of each row."""
    out: list[list[str]] = []
    for chunk in column.chunks:
        names = chunk.flatten().field("id").to_pylist()
        lengths = chunk.value_lengths().fill_null(0).to_pylist()
        ends = itertools.accumulate(lengths, initial=0)
        out += [names[begin:end] for begin, end in itertools.pairwise(ends)]
    return out


def listed(
    rows: pa.Table, column: str, fitting: Sequence[Sequence[str]]
) -> tuple[pa.Table, dict[str, Any]]:
    """``rows`` with those of the items of ``column`` that fit by the rules, and how many."""
    lists = rows[column].to_pylist()
    lead = [{one["id"]: one["lead"] for one in found} for found in lists]
    cut = [
        [{"id": name, "lead": known[name]} for name in names]
        for known, names in zip(lead, fitting, strict=True)
    ]
    at = rows.column_names.index(column)
    ids = rows["id"].to_pylist()
    some = [(name, names) for name, names in zip(ids, fitting, strict=True) if names]
    notes = {
        "rows": rows.num_rows,
        "rows_with": len(some),
        "items": len({name for _, names in some for name in names}),
        "examples": [{"id": name, "fits": list(names[:3])} for name, names in some[:_EXAMPLES]],
    }
    return rows.set_column(at, column, pa.array(cut, FOUND)), notes


def without_negatives(rows: pa.Table, fitting: Sequence[Sequence[str]]) -> tuple[pa.Table, int]:
    """``rows`` without those of their negatives that fit, and how many these were."""
    chunks, removed = [], 0
    start = 0
    for chunk in rows["negatives"].chunks:
        flat = chunk.flatten()
        parents = pc.list_parent_indices(chunk).to_pylist()
        names = pc.struct_field(flat, ["item", "id"]).to_pylist()
        sets = [frozenset(some) for some in fitting[start : start + len(chunk)]]
        keep = np.array(
            [name not in sets[at] for at, name in zip(parents, names, strict=True)], dtype=bool
        )
        removed += int((~keep).sum())
        counts = np.bincount(np.array(parents, np.int64)[keep], minlength=len(chunk))
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        mask = chunk.is_null() if chunk.null_count else None
        values = flat.filter(pa.array(keep, pa.bool_()))
        kind = schema.NEGATIVES.type
        chunks.append(pa.ListArray.from_arrays(offsets, values, type=kind, mask=mask))
        start += len(chunk)
    column = pa.chunked_array(chunks, schema.NEGATIVES.type)
    at = rows.column_names.index("negatives")
    return rows.set_column(at, schema.NEGATIVES, column), removed


def with_targets(
    rows: pa.Table,
    items: pa.Table,
    fitting: Sequence[Sequence[str]],
    most: int,
    line: Mapping[str, Any],
    told: Callable[[list[str]], list[str]] | None,
) -> tuple[pa.Table, int]:
    """``rows`` with the items that fit among their targets, ``most`` in all, and how many came.

    Such a row has a new id and ``line`` in its provenance. told: what captions are compared by,
    where the new target's caption is to be the one that a target has too.
    """
    counts = pc.fill_null(pc.list_value_length(rows["targets"]), 0).to_pylist()
    new = [list(some[: max(0, most - have)]) for some, have in zip(fitting, counts, strict=True)]
    places = [at for at, some in enumerate(new) if some]
    wanted = pa.array(sorted({name for some in new for name in some}), pa.string())
    chosen = items.filter(pc.is_in(items["id"], value_set=wanted))
    columns = [name for name in schema.ITEMS.names if name in chosen.column_names]
    known = {item["id"]: item for item in chosen.select(columns).to_pylist()}
    out = rows.take(pa.array(places, pa.int64())).to_pylist()
    for row, at in zip(out, places, strict=True):
        shown = {key for one in row["targets"] for key in (told([one["caption"]]) if told else ())}
        for name in new[at]:
            item = known[name]
            same = (one for one in item["captions"] or () if told and shown & {*told([one])})
            row["targets"] = [*row["targets"], schema.member(item, next(same, None))]
        row["provenance"] = [*(row["provenance"] or ()), dict(line)]
        sides = [[one["id"] for one in row[side]] for side in ("references", "targets")]
        changes = schema.canonical_json((row["evidence"] or {}).get("changes") or [])
        row["pair"] = schema.pair_id(sides[0], sides[1], changes)
        row["id"] = schema.triplet_id(row["pair"], row["modification"] or "")
    same = pa.array([not some for some in new], pa.bool_())
    mended = pa.Table.from_pylist(out, schema=rows.schema)
    return pa.concat_tables([rows.filter(same), mended]), sum(map(len, new))
