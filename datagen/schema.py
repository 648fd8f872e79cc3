"""Arrow schemas of records, items, pairs and triplets: the one place that names columns.

Words: an *item* is one image or clip with its captions and labels; a *pair* is a reference and
its targets with the evidence that mined them; a *triplet* is a pair with a modification text and,
later, negatives and a split. References, targets and negatives are always lists.

Besides the columns below, tables carry what steps add: scores as ``score_<name>`` (float64),
and on items whatever a filter measured (``phash``, ...).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

Level = Literal["items", "pairs", "triplets"]
Modality = Literal["image", "video"]

KEPT = "kept"
REJECTED = "rejected"
FAILED = "failed"

#: Where the bytes of an image or clip lie. ``offset`` is 0 for a plain file and the first byte of
#: the member for a tar. ``width`` and ``height`` are pixels as displayed (after EXIF orientation);
#: ``seconds`` and ``frames`` are null for images.
MEDIA = pa.struct(
    [
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("modality", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("seconds", pa.float64()),
        ("frames", pa.int64()),
    ]
)

#: One item as it stands in a pair: ``caption`` is the one caption that the pair uses; ``source``
#: is the id of the source that listed the item under ``key``; ``labels`` is a JSON object.
MEMBER = pa.struct(
    [
        ("id", pa.string()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("media", MEDIA),
        ("caption", pa.string()),
        ("labels", pa.string()),
    ]
)

#: One word, label or phrase that differs between reference and target.
CHANGE = pa.struct([("field", pa.string()), ("removed", pa.string()), ("added", pa.string())])

#: Why a pair is a pair: the operator, one readable sentence, what changes, and the mining score.
EVIDENCE = pa.struct(
    [
        ("operator", pa.string()),
        ("reason", pa.string()),
        ("changes", pa.list_(CHANGE)),
        ("score", pa.float64()),
    ]
)

#: One line per step that made or changed the row.
PROVENANCE = pa.list_(
    pa.struct(
        [
            ("step", pa.string()),
            ("operator", pa.string()),
            ("model", pa.string()),
            ("revision", pa.string()),
            ("prompt", pa.string()),
            ("seed", pa.int64()),
        ]
    )
)

#: ``kind`` says where the negative comes from: ``reference``, ``mined``, ...
NEGATIVE = pa.struct([("kind", pa.string()), ("score", pa.float64()), ("item", MEMBER)])

VERDICT_FIELDS = [
    pa.field("verdict", pa.string()),
    pa.field("rule", pa.string()),
    pa.field("detail", pa.string()),
]

#: What a source lists before any byte is read. ``media`` may be null (captions only). A record
#: that is already known to be unusable carries a verdict other than kept, and its reason.
RECORD = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("media", MEDIA),
        pa.field("captions", pa.list_(pa.string())),
        pa.field("labels", pa.string()),
        *VERDICT_FIELDS,
    ]
)

ITEMS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("key", pa.string()),
        pa.field("source", pa.string()),
        pa.field("media", MEDIA),
        pa.field("captions", pa.list_(pa.string())),
        pa.field("labels", pa.string()),
    ]
)

PAIRS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("references", pa.list_(MEMBER)),
        pa.field("targets", pa.list_(MEMBER)),
        pa.field("evidence", EVIDENCE),
        pa.field("provenance", PROVENANCE),
    ]
)

#: ``pair`` is the id of the pair that the triplet grew from.
TRIPLETS = pa.schema(
    [
        *PAIRS,
        pa.field("pair", pa.string()),
        pa.field("modification", pa.string()),
    ]
)

#: Columns that later steps add to triplets.
NEGATIVES = pa.field("negatives", pa.list_(NEGATIVE))
SPLIT = pa.field("split", pa.string())

VERDICTS = pa.schema([pa.field("id", pa.string()), *VERDICT_FIELDS])

ID_BYTES = 10


def content_id(*parts: str | bytes) -> str:
    """Hash ``parts`` to an id of 20 hexadecimal characters (80 bits of BLAKE2b).

    Parts are length-prefixed, so ``("ab", "c")`` and ``("a", "bc")`` differ.
    """
    digest = hashlib.blake2b(digest_size=ID_BYTES)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def item_id(sha256: str | None, captions: Sequence[str], labels: str) -> str:
    """The id of an item: its media bytes, captions and labels, not where they lie."""
    return content_id("item", sha256 or "", canonical_json(list(captions)), labels)


def pair_id(references: Iterable[str], targets: Iterable[str], changes: str = "") -> str:
    """The id of a pair: the ids of its members in order, and what changes between them."""
    return content_id("pair", "\n".join(references), "\n".join(targets), changes)


def id_of_pair(pair: Mapping[str, Any]) -> str:
    """The id that a miner gives a row of the pairs table: of its members and of what changes."""
    references, targets = ([one["id"] for one in pair[side]] for side in ("references", "targets"))
    changes = (pair["evidence"] or {}).get("changes")
    return pair_id(references, targets, canonical_json(changes) if changes else "")


def triplet_id(pair: str, modification: str) -> str:
    """The id of a triplet: its pair and its text."""
    return content_id("triplet", pair, modification)


def member(item: Mapping[str, Any], caption: str | None = None) -> dict[str, Any]:
    """Turn a row of the items table into a member of a pair.

    ``caption`` is the caption that the pair uses; the item's first one by default.
    """
    captions = item["captions"] or []
    return {
        "id": item["id"],
        "key": item["key"],
        "source": item["source"],
        "media": item["media"],
        "caption": caption if caption is not None else (captions[0] if captions else None),
        "labels": item["labels"],
    }


def empty(schema: pa.Schema) -> pa.Table:
    """A table of no rows."""
    return schema.empty_table()
