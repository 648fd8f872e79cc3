"""From records to items: read every medium once, hash it, probe it, give it an id or a verdict.

Sources only list. Here, on Ray workers, each record's bytes are read a single time: their
SHA-256 becomes part of the item's id, the header gives format and size, and (unless switched
off) one cheap decode finds truncated and corrupt files before they reach anybody's shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datagen import media, schema
from datagen.ahead import read_ahead
from datagen.recipe import MediaLimits, Origin
from datagen.step import Context, RowOperator, Settings

#: One row per record: the unit (source part) that listed it, its item columns, its verdict.
JOURNAL = pa.schema([pa.field("unit", pa.string()), *schema.ITEMS, *schema.VERDICT_FIELDS])

PARTS = pa.schema([pa.field("id", pa.string()), pa.field("part", pa.string())])


#: C0 and C1 controls become spaces; marks that turn the direction of text go.
_CLEANED = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ") | dict.fromkeys(
    [0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF]
)


def part_id(part: dict[str, Any]) -> str:
    """The id of a unit of work: its source's fingerprint and its content."""
    return schema.content_id("part", schema.canonical_json(part))


class Ingest(RowOperator[Settings]):
    """Reads parts of sources and gives items. Its input rows are parts, not items.

    ``origins``: the sources by the fingerprint that their parts carry.
    """

    Settings = Settings

    def __init__(self, origins: Mapping[str, Origin], limits: MediaLimits) -> None:
        super().__init__(Settings())
        self.origins = dict(origins)
        self.verify = limits.verify
        self.limits = media.Limits(**limits.model_dump(exclude={"verify"}))

    def open(self, context: Context) -> None:
        self.context = context

    def __call__(self, rows: pa.Table) -> pa.Table:
        tables = []
        for unit, text in zip(rows["id"].to_pylist(), rows["part"].to_pylist(), strict=True):
            part = json.loads(text)
            origin = self.origins[part["source"]]
            records = origin.source.read(part["part"], self.context).to_pylist()
            wanted = [record["media"] for record in records if self._is_read(record)]
            ahead = read_ahead(wanted, self.limits)
            found = [self._item(record, origin.id, ahead) for record in records]
            items = pa.Table.from_pylist(found, schema=pa.schema(list(JOURNAL)[1:]))
            tables.append(items.add_column(0, "unit", pa.array([unit] * len(found), pa.string())))
        return pa.concat_tables(tables) if tables else JOURNAL.empty_table()

    def _is_read(self, record: dict[str, Any]) -> bool:
        where = record["media"]
        good = record["verdict"] in (None, schema.KEPT) and where is not None
        return good and (where["size"] or 0) <= self.limits.most_bytes(where)

    def _item(
        self, record: dict[str, Any], source: str, ahead: Iterator[bytes | media.MediaError]
    ) -> dict[str, Any]:
        captions = [clean_caption(text) for text in record["captions"] or []]
        row: dict[str, Any] = {
            "id": "",
            "key": record["key"],
            "source": source,
            "media": record["media"],
            "captions": [text for text in captions if text],
            "labels": record["labels"] or "{}",
            "verdict": record["verdict"] or schema.KEPT,
            "rule": record["rule"],
            "detail": record["detail"],
        }
        sha256 = ""
        if row["verdict"] == schema.KEPT and row["media"] is not None:
            try:
                data = next(ahead) if self._is_read(record) else None
                row["media"], sha256 = self._probed(row["media"], data)
            except media.MediaError as error:
                row.update(verdict=schema.FAILED, rule=error.rule, detail=error.detail)
            except OSError as error:
                row.update(verdict=schema.FAILED, rule="unreadable", detail=str(error))
        if row["verdict"] == schema.KEPT:
            row["id"] = schema.item_id(sha256, row["captions"], row["labels"])
        else:
            row["id"] = schema.content_id("record", row["key"] or "", row["labels"])
        return row

    def _probed(
        self, where: dict[str, Any], data: bytes | media.MediaError | None
    ) -> tuple[dict[str, Any], str]:
        if data is None:
            most = self.limits.most_bytes(where)
            detail = f"{where['size']} bytes, at most {most} are read"
            raise media.MediaError("too_many_bytes", detail)
        if isinstance(data, media.MediaError):
            raise data
        probe = (media.verify if self.verify else media.probe)(data, self.limits)
        sha256 = hashlib.sha256(data).hexdigest()
        return {
            **where,
            "size": len(data),
            "sha256": sha256,
            "modality": probe.modality,
            "format": probe.format,
            "width": probe.width,
            "height": probe.height,
            "seconds": probe.seconds,
            "frames": probe.frames,
        }, sha256


def clean_caption(text: str | None) -> str:
    """One line of text: no control characters, no overrides of direction, white space folded.

    Joiners that scripts and emoji need stay. What is removed does not depend on the version of
    Unicode, so ids do not either.
    """
    return " ".join((text or "").translate(_CLEANED).split())


def settle(journal: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Items and verdicts from journal rows, in canonical order.

    Records that are equal in bytes, captions and labels become one item; the later keys are
    rejected as ``same_content``. Returns items (schema.ITEMS) and verdicts with their keys.
    """
    for field in JOURNAL:
        # Parts of which none could be read have verdicts only.
        if field.name not in journal.column_names:
            journal = journal.append_column(field, pa.nulls(journal.num_rows, field.type))
    order = journal.select(["verdict", "id", "key"]).to_pandas()
    # The path breaks ties between equal keys, so that no file order shows.
    order["path"] = journal["media"].combine_chunks().field("path").to_pandas()
    order["offset"] = journal["media"].combine_chunks().field("offset").to_pandas()
    order = order.sort_values(["id", "key", "path", "offset"], kind="stable", na_position="first")
    kept = order["verdict"] == schema.KEPT
    again = kept & order.duplicated("id")
    first_key = order[kept].drop_duplicates("id").set_index("id")["key"]
    table = journal.take(pa.array(order.index.to_numpy()))
    verdict = order["verdict"].where(~again, schema.REJECTED)
    rule = table["rule"].to_pandas()
    detail = table["detail"].to_pandas()
    again_list = again.to_numpy()
    rule[again_list] = "same_content"
    detail[again_list] = [
        f"same bytes, captions and labels as {first_key[i]}" for i in order["id"][again]
    ]
    items = table.filter(pa.array((kept & ~again).to_numpy())).select(schema.ITEMS.names)
    verdicts = pa.table(
        {
            # A part that could not be read at all stands for itself.
            "id": pc.coalesce(table["id"], table["unit"]),
            "verdict": pa.array(verdict, pa.string(), from_pandas=True),
            "rule": pa.array(rule, pa.string(), from_pandas=True),
            "detail": pa.array(detail, pa.string(), from_pandas=True),
            "key": table["key"],
        }
    )
    return items.cast(schema.ITEMS).combine_chunks(), verdicts
