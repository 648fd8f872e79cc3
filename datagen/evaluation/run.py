"""Any split of a run of datagen: its triplets as queries, ``run:DIR`` or ``run:DIR#SPLIT``.

Triplets with the same references and text are one query, whose targets are those of all of them.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

import datagen
from datagen.errors import DatagenError, nearest
from datagen.evaluation import metrics
from datagen.evaluation.benchmark import (
    Asked,
    Benchmark,
    Figures,
    Part,
    Picture,
    Protocol,
    Query,
)
from datagen.evaluation.places import Places
from datagen.result import Run
from datagen.step import Settings

AT = (1, 5, 10, 50)
#: Items of a run that are turned into names at a time.
_ROWS = 1 << 14


class RunSettings(Settings):
    """gallery: all items of the ``run`` with media, the references and targets of the ``split``,
    or its ``targets`` alone. exclude_reference: leave the query's references out of the gallery.
    """

    gallery: Literal["run", "split", "targets"] = "split"
    exclude_reference: bool = True


class RunSplit(Protocol[RunSettings]):
    name = "run"
    about = "a split of a run of datagen, run:DIR#SPLIT; recall@1, 5, 10, 50, mAP"
    paper = "docs/EVALUATION.md"
    Settings = RunSettings

    def read(self, data: str) -> Benchmark:
        """``data``: the run directory, with ``#SPLIT`` for one of its splits."""
        out, _, split = data.partition("#")
        run = datagen.load(out)
        table = _split(run, split)
        pictures: dict[str, Picture] = {}
        merged: dict[tuple[tuple[str, ...], str], dict[str, None]] = {}
        columns = ["references", "modification", "targets"]
        for batch in table.select(columns).to_batches(max_chunksize=_ROWS):
            for row in batch.to_pylist():
                sides = []
                for side in ("references", "targets"):
                    members = row[side] or []
                    sides.append(tuple(one["id"] for one in members))
                    pictures.update(
                        (one["id"], _picture(one)) for one in members if one["id"] not in pictures
                    )
                found = merged.setdefault((sides[0], row["modification"] or ""), {})
                found.update(dict.fromkeys(sides[1]))
        references = {name for asked, _ in merged for name in asked}
        targets = {name for found in merged.values() for name in found}
        gallery = targets | references if self.settings.gallery == "split" else targets
        if self.settings.gallery == "run":
            gallery = gallery | _items(run, pictures)
        empty = [name for name in gallery if pictures[name].place is None]
        # An item with nothing but words is no answer of its own, unless it is a target.
        gallery = gallery.difference(set(empty) - targets)
        bare = [name for name in references if pictures[name].place is None]
        if bare:
            raise DatagenError(
                f"{out}: {len(bare):,} references are captions without a medium; a retriever is "
                "asked with images or clips"
            )
        queries: list[Query] = []
        asked, own = [], 0
        for (members, text), wanted in sorted(merged.items()):
            answers = tuple(name for name in wanted if name not in members)
            if not answers:
                own += 1
                continue
            hidden = members if self.settings.exclude_reference else ()
            asked.append(Asked(len(queries), answers, hidden))
            queries.append(Query(str(len(queries)), members, (text,)))
        if not asked:
            raise DatagenError(f"{data}: no triplet has a target that is not its reference")
        notes = [f"{own:,} queries left out, whose only target is their reference"] if own else []
        part = Part(split or "all", tuple(sorted(gallery)), tuple(asked))
        mend = f"the media that the run in {out} refers to"
        return Benchmark(tuple(queries), (part,), pictures, tuple(notes), mend)

    def figures(self, part: Part, found: Places) -> Figures:
        out = {f"R@{k}": metrics.mean(metrics.recall(k), found.targets) for k in AT}
        out["mAP"] = metrics.mean(metrics.average_precision, found.targets)
        return out


def _split(run: Run, split: str) -> pa.Table:
    """Kept triplets of the split; all of them where none is named."""
    table = run.triplets()
    if split:
        if "split" not in table.column_names:
            raise DatagenError(f"{run.out}: this run has no splits; name it without #{split}")
        known = [name for name in pc.unique(table["split"]).to_pylist() if name]
        if split not in known:
            raise DatagenError(f"{run.out}: no split '{split}'; {nearest(split, known)}")
        table = table.filter(pc.equal(table["split"], split))
    if not table.num_rows:
        raise DatagenError(f"{run.out}: no triplets were kept")
    return table


def _picture(member: dict[str, Any]) -> Picture:
    """A member of a triplet; without a medium, its caption is what it is."""
    if member["media"] is None:
        return Picture(text=member["caption"])
    return Picture(member["media"]["path"] or "", media=member["media"])


def _items(run: Run, pictures: dict[str, Picture]) -> set[str]:
    """Names of all items of the run that have media; ``pictures`` gains them."""
    found: set[str] = set()
    for batch in run.items().select(["id", "media"]).to_batches(max_chunksize=_ROWS):
        for row in batch.to_pylist():
            if row["media"] is not None:
                found.add(row["id"])
                if row["id"] not in pictures:
                    pictures[row["id"]] = Picture(row["media"]["path"], media=row["media"])
    return found
