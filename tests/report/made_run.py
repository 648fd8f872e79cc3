"""A run directory whose every table is known, written without running anything."""

import hashlib
import io
import json

import av
import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from datagen import schema, store

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
THINGS = ("mug", "hat", "lamp", "boat", "kite")


def clip(colour, frames=12):
    """A clip of growing brightness, H.264 in MP4."""
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            shade = tuple(int(value * (0.3 + 0.7 * number / frames)) for value in colour)
            picture = av.VideoFrame.from_image(Image.new("RGB", (64, 48), shade))
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return data.getvalue()


def picture(number, colour, name):
    """A picture of one colour with a darker stripe, wide or high by turns."""
    size = (96, 64) if number % 2 else (64, 96)
    image = Image.new("RGB", size, colour)
    image.paste(tuple(value // 2 for value in colour), (0, 0, size[0], 16))
    data = io.BytesIO()
    image.save(data, name)
    return data.getvalue(), size


def items_of(out, count, clips, captions, media):
    """Rows of the items table; media lie in the run's folder."""
    rows = []
    rng = np.random.default_rng(0)
    for number in range(count):
        colour = tuple(int(value) for value in rng.integers(40, 255, 3))
        caption = f"a {COLOURS[number % 6]} {THINGS[number % 5]} number {number}"
        caption = captions.get(number, caption)
        labels = schema.canonical_json({"colour": COLOURS[number % 6]})
        place = None
        if media and number % 10 != 9:
            if number < clips:
                data, size, name = clip(colour), (64, 48), "mp4"
            else:
                name = ("png", "jpeg")[number % 3 == 0]
                data, size = picture(number, colour, name)
            path = store.join(out, "media", f"{number}.{name}")
            store.write_bytes(path, data)
            video = name == "mp4"
            place = {
                "path": path,
                "offset": 0,
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "modality": "video" if video else "image",
                "format": name,
                "width": size[0],
                "height": size[1],
                "seconds": 1.5 if video else None,
                "frames": 12 if video else None,
            }
        rows.append(
            {
                "id": schema.item_id(str(number), [caption], labels),
                "key": f"made/{number}",
                "source": "made",
                "media": place,
                "captions": [caption],
                "labels": labels,
            }
        )
    return rows


def make(
    out, *, pairs=80, items=40, clips=4, captions=None, texts=None, media=True, status="finished"
):
    """Write a run into ``out``; the truth comes back as a frame of all rows that a page lists.

    captions, texts: by the number of an item or triplet, in the place of the usual ones; media:
    whether there are pictures and clips beside the captions.
    """
    store.make_folder(store.join(out, "media"))
    captions, texts = captions or {}, texts or {}
    rows = items_of(out, items, clips, captions, media)
    rng = np.random.default_rng(1)
    made, truth = [], []
    for number in range(pairs):
        a, b = (int(value) for value in rng.choice(items, 2, replace=False))
        members = [schema.member(rows[a])], [schema.member(rows[b])]
        changes = [{"field": "caption", "removed": str(a), "added": str(b)}]
        made.append(
            {
                "id": schema.content_id("pair", str(number)),
                "references": members[0],
                "targets": members[1],
                "evidence": {
                    "operator": "made",
                    "reason": f"pair {number} <of> items {a} & {b}",
                    "changes": changes,
                    "score": None,
                },
                "provenance": [{"step": "made", "operator": "made", "seed": 0}],
                "score_similarity_caption": round(float(rng.uniform(0, 1)), 4),
            }
        )
    lost = [row for row in made if row["score_similarity_caption"] < 0.3]
    good = [row for row in made if row["score_similarity_caption"] >= 0.3]
    triplets = []
    for number, row in enumerate(good):
        text = texts.get(number, f"turn it {COLOURS[number % 6]}, {number} times")
        negative = {"kind": "mined", "score": 0.5, "item": row["references"][0]}
        triplets.append(
            {
                **row,
                "id": schema.triplet_id(row["id"], text),
                "pair": row["id"],
                "modification": text,
                "score_clip_score": round(float(rng.normal(0.25, 0.08)), 4),
                "negatives": [negative] * (number % 4),
                "split": ("train", "val", "test")[number % 3],
                "verdict": "kept",
            }
        )
    for row in triplets:
        if row["score_clip_score"] < 0.2:
            row.update(verdict="rejected", rule="too_low", detail="below 0.2", step="clip_score")
            row.update(split=None)
        elif row["score_clip_score"] > 0.36:
            row.update(verdict="failed", rule=None, detail="<b>boom</b>", step="clip_score")
            row.update(split=None)
    for row in triplets:
        truth.append({**row, "level": "triplets"})
    for row in lost:
        why = {"verdict": "rejected", "rule": "too_different", "step": "similarity"}
        truth.append({**row, **why, "level": "pairs", "detail": "too far"})
    _write(out, rows, made, good, triplets, status)
    frame = pd.DataFrame(truth).sort_values("id").reset_index(drop=True)
    for name in ("split", "rule", "step", "modification"):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


def _verdicts(rows, lost):
    """Verdicts of ``rows``: kept but for those in ``lost`` (verdict, rule, detail by id)."""
    told = [(row["id"], *lost.get(row["id"], ("kept", None, None))) for row in rows]
    return pa.table(
        [pa.array(column, pa.string()) for column in zip(*told, strict=True)],
        schema=schema.VERDICTS,
    )


def _write(out, items, pairs, good, triplets, status):
    plain = pa.schema([*schema.PAIRS, pa.field("score_similarity_caption", pa.float64())])
    bare = pa.schema([field for field in plain if not field.name.startswith("score_")])
    long = pa.schema([*plain, *list(schema.TRIPLETS)[-2:]])
    full = pa.schema(
        [
            *long,
            *(pa.field("score_clip_score", pa.float64()), schema.NEGATIVES, schema.SPLIT),
            *(*schema.VERDICT_FIELDS, pa.field("step", pa.string())),
        ]
    )
    low = {
        row["id"]: ("rejected", "too_different", "too far")
        for row in pairs
        if row["score_similarity_caption"] < 0.3
    }
    off = {
        row["id"]: (row["verdict"], row.get("rule"), row.get("detail"))
        for row in triplets
        if row["verdict"] != "kept"
    }
    kept = [row for row in triplets if row["verdict"] == "kept"]
    final = pa.schema([field for field in full if field.name not in ("verdict", "rule", "detail")])
    broken = {"id": "x", "verdict": "failed", "rule": "truncated", "detail": "ends <early>"}
    listed = _verdicts(items, {})
    listed = pa.concat_tables([listed, pa.table({k: [v] for k, v in broken.items()})])
    steps = [
        ("source", "source", "items", pa.Table.from_pylist(items, schema.ITEMS), listed, None),
        ("made", "pair", "pairs", pa.Table.from_pylist(pairs, bare), _verdicts(items, {}), None),
        (
            *("similarity", "filter", "pairs", pa.Table.from_pylist(good, plain)),
            *(_verdicts(pairs, low), ("score_similarity_caption", pairs)),
        ),
        (
            "text",
            "text",
            "triplets",
            pa.Table.from_pylist(triplets, long),
            _verdicts(good, {}),
            None,
        ),
        (
            *("clip_score", "filter", "triplets", pa.Table.from_pylist(kept, final)),
            *(_verdicts(triplets, off), ("score_clip_score", triplets)),
        ),
    ]
    funnel, folders = [], []
    for name, kind, level, table, verdicts, measured in steps:
        folder = f"steps/{kind}-{name}/0"
        store.make_folder(store.join(out, folder))
        store.write_table(store.join(out, folder, "table.parquet"), table)
        store.write_table(store.join(out, folder, "verdicts.parquet"), verdicts)
        if measured:
            column, rows = measured
            scores = pa.table({name: [row[name] for row in rows] for name in ("id", column)})
            store.write_table(store.join(out, folder, "scores.parquet"), scores)
            journal = store.Journal(store.join(out, f"steps/{kind}-{name}", "journal"))
            store.make_folder(journal.folder)
            part = {"unit": [row["id"] for row in rows], column: [row[column] for row in rows]}
            nothing = pa.nulls(len(rows), pa.string())
            part.update(verdict=["kept"] * len(rows), rule=nothing, detail=nothing)
            journal.append(pa.table(part))
        counts = verdicts.to_pandas().fillna({"rule": "error"}).groupby(["verdict", "rule"]).size()
        lost = {
            verdict: {rule: int(n) for (v, rule), n in counts.items() if v == verdict}
            for verdict in ("kept", "rejected", "failed")
        }
        folders.append({"id": name, "folder": folder, "revision": ""})
        funnel.append(
            {
                "id": name,
                "kind": kind,
                "op": name,
                "level": level,
                "seconds": 1.0,
                "rows_in": verdicts.num_rows,
                "kept": sum(lost["kept"].values()),
                "rejected": lost["rejected"],
                "failed": lost["failed"],
                "rows_out": table.num_rows,
                "notes": {},
                "reused": False,
            }
        )
        store.write_json(store.join(out, folder, "done.json"), funnel[-1])
    note = {
        "status": status,
        "rows": "0",
        "recipe": {
            "name": "made",
            "about": "A run whose every table is known",
            "seed": 7,
            "source": {"type": "folder", "path": "photos"},
            "steps": [
                {"pair": {"op": "made"}},
                {"filter": {"op": "similarity", "space": "caption", "low": 0.3}},
                {"text": {"op": "text"}},
                {"filter": {"op": "clip_score", "high": 0.36}},
            ],
        },
        "seed": 7,
        "versions": {"datagen": "0"},
        "steps": folders,
        "funnel": funnel,
    }
    store.write_bytes(store.join(out, "run.json"), json.dumps(note).encode())
    if status == "finished":
        table = pa.Table.from_pylist(sorted(triplets, key=lambda row: row["id"]), full)
        store.write_table(store.join(out, "triplets.parquet"), table)


def cut_to(out, steps, status="stopped"):
    """Make the run one that ended after ``steps`` of its steps."""
    path = store.join(out, "run.json")
    note = store.read_json(path)
    for later in note["steps"][steps:]:
        store.remove(store.join(out, later["folder"], "done.json"))
    note.update(status=status, funnel=note["funnel"][:steps])
    store.write_json(path, note)
    store.remove(store.join(out, "triplets.parquet"))
