"""From index arrays to tables: what pairing operators share.

Miners work on plain integer arrays (rows of the items table, rows of a pool of captions); this
module gives them an order that depends on content alone, applies caps, and builds the Arrow
tables column by column, so a million pairs cost seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen import schema

Array = np.ndarray[Any, Any]

#: Rows of a pairs table that are built at once: bounds memory, and keeps the strings of one
#: chunk far below the 2 GiB that Arrow's ``string`` can hold.
CHUNK = 1 << 16

#: Columns of at most this many bytes are copied into one chunk before rows are picked.
ONE_CHUNK = 1 << 30

#: Columns of items that a member takes as they are.
_MEMBER_COLUMNS = tuple(field.name for field in schema.MEMBER if field.name != "caption")


def mix64(values: Array) -> Array:
    """Scramble unsigned 64-bit integers, one to one (the finaliser of SplitMix64)."""
    x = values.astype(np.uint64, copy=True)
    x += np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def seed64(seed: int) -> np.uint64:
    """A seed as 64 scrambled bits."""
    return np.uint64(mix64(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))[0])


@dataclass(frozen=True)
class Canon:
    """Items in the order of their ids, whatever the order of the table.

    rows: row of the table at each place of the order (n,); places: the inverse (n,);
    hashes: seeded 64-bit hashes of the ids, in order (n,); looks: integers, in order (n,),
    equal where two items have the same media bytes.
    """

    rows: Array
    places: Array
    hashes: Array
    looks: Array

    @staticmethod
    def of(items: pa.Table, seed: int) -> Canon:
        """The order of ``items`` (columns ``id`` and ``media``)."""
        names = np.asarray(items["id"].to_pylist(), dtype="S")
        rows = np.argsort(names, kind="stable")
        places = np.empty(len(rows), np.int64)
        places[rows] = np.arange(len(rows))
        return Canon(rows, places, _hash_names(names[rows], seed), _looks(items)[rows])

    def __len__(self) -> int:
        return len(self.rows)


def _hash_names(names: Array, seed: int) -> Array:
    if not len(names):
        return np.empty(0, np.uint64)
    width = -(-names.dtype.itemsize // 8) * 8
    blocks = names.astype(f"S{width}").view("<u8").reshape(len(names), -1)
    state = np.full(len(names), seed64(seed))
    for column in blocks.T:
        state = mix64(state ^ column)
    return state


def _looks(items: pa.Table) -> Array:
    hashes = [pc.struct_field(chunk, "sha256") for chunk in items["media"].chunks]
    column = pa.chunked_array(hashes, pa.string()).combine_chunks().dictionary_encode()
    codes = pc.fill_null(column.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    alone = codes < 0
    out: Array = codes.copy()
    out[alone] = len(column.dictionary) + np.arange(int(alone.sum()))
    return out


def flat_captions(items: pa.Table) -> tuple[pa.Array, Array]:
    """All captions of all items, and the row of the item of each.

    Returns a large_string array (m,) and int64 (m,); null captions are left out.
    """
    texts: list[pa.Array] = []
    parents: list[Array] = []
    row = 0
    for chunk in items["captions"].chunks:
        flat = pc.list_flatten(chunk).cast(pa.large_string())
        parent = pc.list_parent_indices(chunk).to_numpy(zero_copy_only=False) + row
        if flat.null_count:
            valid = flat.is_valid()
            parent = parent[valid.to_numpy(zero_copy_only=False)]
            flat = flat.filter(valid)
        texts.append(flat)
        parents.append(parent.astype(np.int64))
        row += len(chunk)
    if not texts:
        return pa.array([], pa.large_string()), np.empty(0, np.int64)
    return pa.concat_arrays(texts), np.concatenate(parents)


def first_caption(parents: Array, items: int) -> Array:
    """The place in a flat pool of each item's first caption (int64, items); -1 for none.

    ``parents`` is ascending, as :func:`flat_captions` gives it.
    """
    out = np.full(items, -1, np.int64)
    found, first = np.unique(parents, return_index=True)
    out[found] = first
    return out


def within_caps(
    left: Array,
    right: Array,
    max_left: int | None,
    max_right: int | None,
    *,
    one_kind: bool = False,
) -> Array:
    """Which pairs stay (bool, m) when, in the given order, each end may be used so often.

    ``left`` and ``right`` are non-negative integers (m,). A pair is taken if both of its ends
    are below their caps (None: no cap) at its turn. With ``one_kind`` both columns name the same
    things, which have one budget, ``max_left``, for both places.
    """
    if one_kind:
        max_right = max_left
    if not len(left) or (max_left is None and max_right is None):
        return np.ones(len(left), bool)
    unlimited = np.iinfo(np.int64).max
    cap_left = unlimited if max_left is None else max_left
    cap_right = unlimited if max_right is None else max_right
    offset = 0 if one_kind else int(left.max()) + 1
    size = max(int(left.max()), int(right.max()) + offset) + 1
    total = np.bincount(left, minlength=size) + np.bincount(right + offset, minlength=size)
    contested = (total[left] > cap_left) | (total[right + offset] > cap_right)
    keep: Array = ~contested
    # Ends that are never over their cap need no counting; the others are served in turn.
    used = [0] * size
    at = np.flatnonzero(contested)
    for start in range(0, len(at), CHUNK):
        some = at[start : start + CHUNK]
        taken = []
        pairs = zip(left[some].tolist(), (right[some] + offset).tolist(), strict=True)
        for place, (a, b) in enumerate(pairs):
            if used[a] < cap_left and used[b] < cap_right:
                used[a] += 1
                used[b] += 1
                taken.append(place)
        keep[some[taken]] = True
    return keep


def expand(counts: Array) -> tuple[Array, Array]:
    """For each row ``i`` its number, ``counts[i]`` times, and 0, 1, … within each row."""
    owner = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - starts[owner]


def blocks(sizes: Array, limit: int) -> Iterator[tuple[int, int]]:
    """Cut rows of the given sizes into ranges of at most ``limit`` in all (one row at least)."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield start, stop
        start = stop


@dataclass(frozen=True)
class Mined:
    """Pairs of one reference and one target as arrays of length m.

    references, targets: rows of the items table; reference_texts, target_texts: rows of ``texts``
    (-1: no caption); scores: float64, NaN for none; reasons: strings, dictionary-encoded or not;
    removed, added: rows of ``words``, or None where no word changes.
    """

    references: Array
    targets: Array
    texts: pa.Array
    reference_texts: Array
    target_texts: Array
    scores: Array
    reasons: pa.Array
    words: pa.Array | None = None
    removed: Array | None = None
    added: Array | None = None


@dataclass(frozen=True)
class FirstCaptions:
    """The captions of all items, flat, and where the first one of each is (int64, n; -1: none)."""

    texts: pa.Array
    first: Array

    @staticmethod
    def of(items: pa.Table) -> FirstCaptions:
        """Those of ``items``."""
        texts, parents = flat_captions(items)
        return FirstCaptions(texts, first_caption(parents, len(items)))

    def mined(self, references: Array, targets: Array, scores: Array, reasons: pa.Array) -> Mined:
        """Pairs of which no word is known to change, each item with its first caption."""
        own = self.first[references], self.first[targets]
        return Mined(references, targets, self.texts, *own, scores, reasons)


def pair_table(
    items: pa.Table, mined: Mined, *, operator: str, field: str, provenance: dict[str, Any]
) -> pa.Table:
    """The table of pairs (:data:`datagen.schema.PAIRS`), rows in the order of ``mined``.

    ``field`` names what changes (``caption``); ``provenance`` is the step's own line.
    """
    columns = {name: _one_chunk(items[name]) for name in _MEMBER_COLUMNS}
    ids = items["id"].to_pylist()
    words = [] if mined.words is None else mined.words.to_pylist()
    quoted = [schema.canonical_json(word) for word in words]
    line = pa.array([[provenance]], schema.PROVENANCE)
    batches = []
    for start in range(0, len(mined.references), CHUNK):
        at = slice(start, min(start + CHUNK, len(mined.references)))
        count = at.stop - at.start
        evidence = pa.StructArray.from_arrays(
            [
                pa.repeat(pa.scalar(operator, pa.string()), count),
                mined.reasons.slice(start, count).cast(pa.string()),
                _changes(mined, at, field),
                pa.array(mined.scores[at], pa.float64(), mask=np.isnan(mined.scores[at])),
            ],
            fields=list(schema.EVIDENCE),
        )
        arrays = [
            pa.array(_ids(mined, at, ids, quoted, field), pa.string()),
            _members(columns, mined.references[at], mined.texts, mined.reference_texts[at]),
            _members(columns, mined.targets[at], mined.texts, mined.target_texts[at]),
            evidence,
            line.take(pa.array(np.zeros(count, np.int64))),
        ]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema.PAIRS))
    return pa.Table.from_batches(batches, schema=schema.PAIRS)


def _ids(mined: Mined, at: slice, ids: list[str], quoted: list[str], field: str) -> list[str]:
    ends = zip(mined.references[at].tolist(), mined.targets[at].tolist(), strict=True)
    if mined.removed is None or mined.added is None:
        return [schema.pair_id((ids[r],), (ids[t],)) for r, t in ends]
    # The canonical JSON of a list of one change, put together from quoted words.
    middle = f',"field":{schema.canonical_json(field)},"removed":'
    words = zip(mined.removed[at].tolist(), mined.added[at].tolist(), strict=True)
    return [
        schema.pair_id((ids[r],), (ids[t],), f'[{{"added":{quoted[new]}{middle}{quoted[old]}}}]')
        for (r, t), (old, new) in zip(ends, words, strict=True)
    ]


def _changes(mined: Mined, at: slice, field: str) -> pa.Array:
    count = at.stop - at.start
    if mined.words is None or mined.removed is None or mined.added is None:
        offsets, inner = np.zeros(count + 1, np.int32), pa.array([], schema.CHANGE)
    else:
        offsets = np.arange(count + 1, dtype=np.int32)
        inner = pa.StructArray.from_arrays(
            [
                pa.repeat(pa.scalar(field, pa.string()), count),
                mined.words.take(pa.array(mined.removed[at])).cast(pa.string()),
                mined.words.take(pa.array(mined.added[at])).cast(pa.string()),
            ],
            fields=list(schema.CHANGE),
        )
    kind = schema.EVIDENCE.field("changes").type
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner, type=kind)


def _members(
    columns: dict[str, pa.Array | pa.ChunkedArray], rows: Array, texts: pa.Array, text_rows: Array
) -> pa.Array:
    captions = texts.take(pa.array(text_rows, pa.int64(), mask=text_rows < 0)).cast(pa.string())
    picked = {name: _pick(column, rows) for name, column in columns.items()}
    picked["caption"] = captions
    members = pa.StructArray.from_arrays(
        [picked[field.name] for field in schema.MEMBER], fields=list(schema.MEMBER)
    )
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, members, type=schema.PAIRS.field("references").type)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if column.nbytes > ONE_CHUNK:
        return column
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        return whole.chunk(0) if whole.num_chunks == 1 else column
    return whole


def _pick(column: pa.Array | pa.ChunkedArray, rows: Array) -> pa.Array:
    """Rows of a column; chunk by chunk where one chunk could not hold its strings."""
    if isinstance(column, pa.Array):
        return column.take(pa.array(rows))
    lengths = np.array([len(chunk) for chunk in column.chunks], np.int64)
    starts = np.cumsum(lengths) - lengths
    owner = np.searchsorted(starts + lengths, rows, side="right")
    order = np.argsort(owner, kind="stable")
    pieces = []
    for number in np.unique(owner).tolist():
        inside = rows[order][owner[order] == number] - starts[number]
        pieces.append(column.chunk(number).take(pa.array(inside)))
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return pa.concat_arrays(pieces).take(pa.array(back)) if pieces else column.chunk(0).slice(0, 0)


def verdict_table(ids: pa.ChunkedArray, codes: Array, rules: Sequence[tuple[str, str]]) -> pa.Table:
    """Verdicts of items: code 0 is kept, code i is rejected by ``rules[i - 1]`` (rule, detail)."""
    picks = pa.array(codes, pa.int64())
    words = [
        [schema.KEPT, *[schema.REJECTED] * len(rules)],
        [None, *[rule for rule, _ in rules]],
        [None, *[detail for _, detail in rules]],
    ]
    columns = [pa.array(word, pa.string()).take(picks) for word in words]
    return pa.table([ids, *columns], schema=schema.VERDICTS)
