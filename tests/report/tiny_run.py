"""Run directories out of rows that a test names, with real pictures and shards, without Ray."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from datagen import schema
from datagen.shards.webdataset import WebDatasetShards
from datagen.step import Context, Tables

LINES = [
    {"step": "pair", "operator": "one_word_diff", "seed": 3},
    {"step": "text", "operator": "template", "model": "m/x", "revision": "abc", "prompt": "do it"},
]
RECIPE = {
    "name": "tiny",
    "about": "A few rows",
    "seed": 3,
    "source": {"type": "folder", "path": "photos", "id": "photos"},
    "steps": [
        {"pair": {"op": "one_word_diff"}},
        {"filter": {"op": "similarity", "space": "caption", "low": 0.3}},
        {"text": {"op": "template"}},
        {"filter": {"op": "quality.py:Mine", "id": "mine", "low": 0.5}},
        {"shards": {}},
    ],
}


def item(out, number, caption, *, source="photos", labels=None, kind="png", size=(8, 6)):
    """A row of the items table; its picture lies in the run. kind None: captions only."""
    labels = schema.canonical_json(labels or {})
    media = None
    if kind is not None:
        data = io.BytesIO()
        Image.new("RGB", size, (number * 7 % 256, 9, 9)).save(data, kind)
        path = Path(out, "media", f"{number}.{kind}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.getvalue())
        media = {"path": str(path), "offset": 0, "size": len(data.getvalue()), "sha256": None}
        media |= {"modality": "image", "format": kind, "width": size[0], "height": size[1]}
        media |= {"seconds": None, "frames": None}
    named = {"id": schema.item_id(str(number), [caption], labels), "key": f"dir/{number}.{kind}"}
    return {**named, "source": source, "media": media, "captions": [caption], "labels": labels}


def triplet(references, targets, text, *, split=None, negatives=(), score=0.5, **lost):
    """A triplet of items. lost: verdict, rule, detail and step where it was not kept."""
    members = [[schema.member(one) for one in role] for role in (references, targets)]
    pair = schema.pair_id(*[[one["id"] for one in role] for role in members])
    return {
        "id": schema.triplet_id(pair, text),
        "references": members[0],
        "targets": members[1],
        "evidence": {"operator": "one_word_diff", "reason": "words differ", "changes": []},
        "provenance": LINES,
        "pair": pair,
        "modification": text,
        "score_similarity_caption": score,
        "negatives": [
            {"kind": kind, "score": 0.1, "item": schema.member(one)} for kind, one in negatives
        ],
        "split": split,
        "verdict": "kept",
        "rule": None,
        "detail": None,
        "step": None,
        **lost,
    }


def write(out, items, triplets, *, recipe=None, shards=False, status="finished", note=None):
    """Write the run and open it. Steps: source, one_word_diff, similarity, template, mine."""
    out = str(out)
    extra = [pa.field("score_similarity_caption", pa.float64()), schema.NEGATIVES, schema.SPLIT]
    kinds = pa.schema([*schema.TRIPLETS, *extra, *schema.VERDICT_FIELDS, ("step", pa.string())])
    every = pa.Table.from_pylist(sorted(triplets, key=lambda row: row["id"]), kinds)
    bare = every.drop_columns(["verdict", "rule", "detail", "step"])
    pairs = {row["pair"]: {**row, "id": row["pair"]} for row in triplets}
    paired = pa.Table.from_pylist(
        sorted(pairs.values(), key=lambda row: row["id"]), pa.schema([*schema.PAIRS, extra[0]])
    )
    kept = bare.filter(pa.array([v == "kept" for v in every["verdict"].to_pylist()], pa.bool_()))
    rows = sorted(items, key=lambda row: row["id"])
    listed = pa.Table.from_pylist(rows, schema.ITEMS)
    tables = [
        ("source", "source", "items", listed, _verdicts(rows)),
        ("one_word_diff", "pair", "pairs", paired.drop_columns([extra[0].name]), _verdicts(rows)),
        ("similarity", "filter", "pairs", paired, _verdicts(paired.to_pylist())),
        ("template", "text", "triplets", bare, _verdicts(paired.to_pylist())),
        ("mine", "filter", "triplets", kept, _verdicts(every.to_pylist())),
    ]
    if shards:
        made = WebDatasetShards(WebDatasetShards.Settings(max_count=2))(
            Tables(listed, kept, "triplets"), Context(out_dir=out)
        )
        tables.append(("shards", "shards", "triplets", made.rows, made.verdicts))
    places, funnel = [], []
    for name, kind, level, table, verdicts in tables:
        folder = f"steps/{kind}-{name}/0"
        Path(out, folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, f"{out}/{folder}/table.parquet")
        pq.write_table(verdicts, f"{out}/{folder}/verdicts.parquet")
        places.append({"id": name, "folder": folder, "revision": "r1" if name == "mine" else ""})
        told = verdicts.to_pylist()
        lost = {
            verdict: {
                rule: sum(v["verdict"] == verdict and (v["rule"] or "error") == rule for v in told)
                for rule in {v["rule"] or "error" for v in told if v["verdict"] == verdict}
            }
            for verdict in ("rejected", "failed")
        }
        counts = {"rows_in": len(told), "kept": sum(v["verdict"] == "kept" for v in told)}
        funnel.append(
            {"id": name, "kind": kind, "op": name, "level": level, **counts, **lost, "notes": {},
             "rows_out": table.num_rows, "seconds": 1.0, "reused": False}
        )  # fmt: skip
        Path(out, folder, "done.json").write_text(json.dumps(funnel[-1]))
    told = {"status": status, "rows": "0", "recipe": recipe or RECIPE, "seed": 3, "steps": places}
    told |= {"versions": {"datagen": "0.1"}, "funnel": funnel, **(note or {})}
    Path(out, "run.json").write_text(json.dumps(told), encoding="utf-8")
    if status == "finished":
        pq.write_table(every, f"{out}/triplets.parquet")
    import datagen

    return datagen.load(out)


def _verdicts(rows):
    told = [
        {"id": row["id"], "verdict": row.get("verdict", "kept"), "rule": row.get("rule"),
         "detail": row.get("detail")}
        for row in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(told, schema.VERDICTS)
