"""Items of the collection in the place of members of triplets that are captions alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from datagen import schema
from datagen.ingest import clean_caption
from datagen.pairing import _retrieved as retrieved
from datagen.pairing._neighbours import Placed
from datagen.pairing._table import within_caps
from datagen.step import Context, Parallel, Result, Tables, verdicts

#: Rows that are looked at together.
CHUNK = 1 << 14

_FATES = {
    retrieved.NO_VECTOR: ("no_text_vector", "the model gives no vector for '{caption}'"),
    retrieved.TOO_FAR: ("nothing_near", "the nearest to '{caption}' has {cosine}"),
    retrieved.REFERENCE_NEARER: (
        "reference_nearer",
        "nothing is nearer to '{caption}' than the reference",
    ),
}


@dataclass
class _Row:
    """A triplet: places of its members in canonical order (-1: to be found), and their captions.

    cosine: the lowest of those that were found; fault: rule and detail that reject it.
    """

    id: str
    sides: dict[str, list[int]]
    captions: dict[str, list[str]]
    cosine: float = float("nan")
    fault: tuple[str, str] | None = None
    found: list[str] = field(default_factory=list)


class Triplets:
    """Triplets some of whose members no space holds."""

    def __init__(self, tables: Tables, there: Placed, line: dict[str, Any]) -> None:
        self._items, self._triplets = tables.items, tables.rows
        self._there, self._line = there, line
        self._held = set(there.able.tolist())

    def paired(
        self,
        how: retrieved.Retrieval,
        caps: tuple[int | None, int | None],
        context: Context,
        parallel: Parallel,
    ) -> Result:
        """The triplets as pairs of items that the space holds. caps: of references and targets."""
        rows = self._rows()
        asked = sum(one < 0 for row in rows for side in row.sides.values() for one in side)
        # The reference first: a target must be another item than it.
        self._find(rows, "references", how, context, parallel)
        self._find(rows, "targets", how, context, parallel)
        self._cap(rows, caps)
        made = self._made(rows, how.space)
        rejected = {row.id: row.fault for row in rows if row.fault is not None}
        notes: dict[str, Any] = {
            "items_with_vector": len(self._there.able),
            "captions_to_find": asked,
            "captions_found": sum(len(row.found) for row in rows),
        }
        own = ["no_member", "no_caption", "capped", "same_pair"]
        rules = [*(rule for rule, _ in _FATES.values()), *own]
        for rule in rules:
            notes[rule] = sum(fault[0] == rule for fault in rejected.values())
        notes["pairs"] = len(made)
        return Result(made, verdicts(self._triplets["id"], rejected), notes=notes)

    def _rows(self) -> list[_Row]:
        """All triplets, sorted by id."""
        there = self._there
        ids = self._items["id"].to_pylist()
        place = {ids[row]: at for at, row in enumerate(there.canon.rows.tolist())}
        out = []
        for start in range(0, len(self._triplets), CHUNK):
            part = self._triplets.slice(start, CHUNK)
            for row in part.select(["id", "references", "targets"]).to_pylist():
                sides, captions = {}, {}
                for side in ("references", "targets"):
                    members = row[side] or []
                    at = [place.get(one["id"], -1) for one in members]
                    stay = [n in self._held or (n >= 0 and m["media"] is not None)
                            for n, m in zip(at, members, strict=True)]  # fmt: skip
                    sides[side] = [n if own else -1 for n, own in zip(at, stay, strict=True)]
                    captions[side] = [clean_caption(one["caption"] or "") for one in members]
                made = _Row(row["id"], sides, captions)
                if not all(sides.values()):
                    made.fault = ("no_member", "no reference, or no target")
                elif not all(
                    caption or n >= 0
                    for side, many in sides.items()
                    for n, caption in zip(many, captions[side], strict=True)
                ):
                    made.fault = ("no_caption", "a member has neither media nor a caption")
                out.append(made)
        return sorted(out, key=lambda row: row.id)

    def _find(
        self,
        rows: list[_Row],
        side: str,
        how: retrieved.Retrieval,
        context: Context,
        parallel: Parallel,
    ) -> None:
        """Find the members of one side that are captions alone."""
        asked = [
            (row, number)
            for row in rows
            if row.fault is None
            for number, one in enumerate(row.sides[side])
            if one < 0
        ]
        if not asked:
            return
        without = [row.sides["references"] if side == "targets" else [] for row, _ in asked]
        texts = [row.captions[side][number] for row, number in asked]
        found = how.nearest(texts, without, self._there, context, parallel)
        for n, (row, number) in enumerate(asked):
            fate, cosine = int(found.fate[n]), float(found.cosine[n])
            if fate != retrieved.FOUND:
                rule, detail = _FATES[fate]
                near = f"{cosine:.3f} < {how.low:g}" if np.isfinite(cosine) else "no other item"
                row.fault = row.fault or (rule, detail.format(caption=texts[n][:120], cosine=near))
                continue
            row.sides[side][number] = int(found.item[n])
            row.cosine = min(cosine, row.cosine) if np.isfinite(row.cosine) else cosine
            row.found.append(texts[n])

    def _cap(self, rows: list[_Row], caps: tuple[int | None, int | None]) -> None:
        """Reject what is over the caps of first references and first targets, and what comes to
        the same pair with the same text, in the order of falling similarity."""
        able = [row for row in rows if row.fault is None]
        able.sort(key=lambda row: (-np.nan_to_num(row.cosine, nan=2.0), row.id))
        texts = dict(zip(self._triplets["id"].to_pylist(),
                         self._triplets["modification"].to_pylist(), strict=True))  # fmt: skip
        seen: dict[Any, str] = {}
        once = []
        for row in able:
            key = (*map(tuple, row.sides.values()), texts[row.id])
            if key in seen:
                row.fault = ("same_pair", f"the same items and text as {seen[key]}")
            else:
                seen[key] = row.id
                once.append(row)
        left, right = (
            np.array([row.sides[side][0] for row in once], np.int64)
            for side in ("references", "targets")
        )
        for row, keep in zip(once, within_caps(left, right, *caps).tolist(), strict=True):
            if not keep:
                row.fault = ("capped", "its items are in as many pairs as the caps let them be")

    def _made(self, rows: list[_Row], space: str) -> pa.Table:
        """The pairs of all rows that have no fault."""
        kept = {row.id: row for row in rows if row.fault is None}
        done = []
        for start in range(0, len(self._triplets), CHUNK):
            part = self._triplets.slice(start, CHUNK)
            made = [
                self._pair(row, kept[row["id"]], space)
                for row in part.to_pylist()
                if row["id"] in kept
            ]
            done.append(pa.Table.from_pylist(made, schema=schema.PAIRS))
        return pa.concat_tables(done) if done else schema.empty(schema.PAIRS)

    def _pair(self, triplet: dict[str, Any], row: _Row, space: str) -> dict[str, Any]:
        members = {}
        for side, places in row.sides.items():
            old = triplet[side]
            members[side] = [
                own if own["id"] == item["id"] else item
                for own, item in zip(old, map(self._member, places), strict=True)
            ]
        evidence = triplet["evidence"] or {}
        changes = [one for one in evidence.get("changes") or [] if one["field"] != "text"]
        changes.append({"field": "text", "removed": None, "added": triplet["modification"]})
        told = ", ".join(f"'{caption}'" for caption in row.found)
        reason = f"nearest to {told}, {space} similarity {row.cosine:.3f}" if told else ""
        left, right = ([one["id"] for one in members[side]] for side in ("references", "targets"))
        return {
            "id": schema.pair_id(left, right, schema.canonical_json(changes)),
            **members,
            "evidence": {
                "operator": "caption_then_retrieve",
                "reason": "; ".join(filter(None, [evidence.get("reason"), reason])),
                "changes": changes,
                "score": row.cosine if np.isfinite(row.cosine) else evidence.get("score"),
            },
            "provenance": [*(triplet["provenance"] or []), self._line],
        }

    def _member(self, place: int) -> dict[str, Any]:
        row = self._items.slice(int(self._there.canon.rows[place]), 1).to_pylist()[0]
        return schema.member(row)
