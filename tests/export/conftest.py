"""A finished run written by hand: every odd thing that a triplet may have, all of it known."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from datagen import schema, store

ODD = 'replace "red", then\nthe 日本 <b>hat</b>, {x}'


def picture(number: int, kind: str = "jpeg") -> bytes:
    """A small picture that no other number gives."""
    colour = (number * 37 % 256, number * 91 % 256, number * 11 % 256)
    data = io.BytesIO()
    Image.new("RGB", (24 + number, 20), colour).save(data, kind)
    return data.getvalue()


def clip(number: int) -> bytes:
    """A clip of eight frames."""
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for step in range(8):
            pixels = np.full((48, 64, 3), (number * 40 + step) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return data.getvalue()


@dataclass
class Made:
    """A run directory in the making, and the truth about it."""

    out: str
    media: str
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    bytes_of: dict[str, bytes] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def item(self, name: str, data: bytes | None, kind: str = "jpeg", **labels: Any) -> str:
        """Add an item whose medium is a file of its own; gives its id."""
        number = schema.content_id(name)
        media = None
        if data is not None:
            path = store.join(self.media, f"{name}.{kind}")
            store.write_bytes(path, data)
            media = self._media(path, 0, data, kind)
            self.bytes_of[number] = data
        self.items[number] = {
            "id": number,
            "key": name,
            "source": "made",
            "media": media,
            "caption": f"a {name}",
            "labels": schema.canonical_json(labels),
        }
        return number

    def in_tar(self, names: list[str]) -> None:
        """Move the media of these items into one tar, as its members."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for name in names:
                info = tarfile.TarInfo(f"{name}.jpg")
                info.size = len(self.bytes_of[name])
                archive.addfile(info, io.BytesIO(self.bytes_of[name]))
        path = store.join(self.media, "members.tar")
        store.write_bytes(path, data.getvalue())
        with tarfile.open(fileobj=io.BytesIO(data.getvalue())) as archive:
            members = archive.getmembers()
        for member in members:
            media = self.items[member.name[:-4]]["media"]
            media["path"], media["offset"] = path, member.offset_data

    def _media(self, path: str, offset: int, data: bytes, kind: str) -> dict[str, Any]:
        video = kind == "mp4"
        return {
            "path": path,
            "offset": offset,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "modality": "video" if video else "image",
            "format": kind,
            "width": 24,
            "height": 20,
            "seconds": 1.0 if video else None,
            "frames": 8 if video else None,
        }

    def triplet(
        self,
        references: list[str],
        targets: list[str],
        text: str,
        negatives: list[str] = [],  # noqa: B006
        split: str | None = "train",
        verdict: str = "kept",
        score: float | None = 0.5,
    ) -> str:
        """Add a triplet; gives its id."""
        pair = schema.content_id(*references, *targets)
        name = schema.content_id(pair, text)
        kinds = ["reference" if one in references else "mined" for one in negatives]
        self.rows.append(
            {
                "id": name,
                "pair": pair,
                "modification": text,
                "references": [self.items[one] for one in references],
                "targets": [self.items[one] for one in targets],
                "negatives": [
                    {"kind": kind, "score": 0.25, "item": self.items[one]}
                    for kind, one in zip(kinds, negatives, strict=True)
                ],
                "evidence": {"operator": "made", "reason": "by hand", "changes": [], "score": None},
                "provenance": [],
                "score_similarity_caption": score,
                "split": split,
                "verdict": verdict,
                "rule": None if verdict == "kept" else "by_hand",
                "detail": None,
                "step": None if verdict == "kept" else "filter",
            }
        )
        return name

    def finish(self, status: str = "finished", **recipe: Any) -> Made:
        """Write the tables of the run, rows in the order of their ids."""
        columns = pa.schema(
            [
                *schema.TRIPLETS,
                schema.NEGATIVES,
                schema.SPLIT,
                pa.field("score_similarity_caption", pa.float64()),
                *schema.VERDICT_FIELDS,
                pa.field("step", pa.string()),
            ]
        )
        rows = sorted(self.rows, key=lambda row: row["id"])
        store.write_table(
            store.join(self.out, "triplets.parquet"), pa.Table.from_pylist(rows, schema=columns)
        )
        note = {
            "status": status,
            "layout": 1,
            "rows": "0" * 16,
            "recipe": {"name": "made", "about": "By hand", "source": {"type": "folder"}, **recipe},
            "seed": 0,
            "versions": {},
            "steps": [],
            "funnel": [],
        }
        store.write_json(store.join(self.out, "run.json"), note)
        return self

    def kept(self, split: str) -> dict[str, dict[str, Any]]:
        """The kept triplets of a split, by id."""
        rows = [row for row in self.rows if row["verdict"] == "kept" and row["split"] == split]
        return {row["id"]: row for row in rows}


def fill(made: Made) -> Made:
    """Pictures in files and in a tar; several texts, targets, references; odd texts and labels."""
    names = [f"thing {n}" for n in range(14)]
    kinds = ["dress", "dress", "Shirt / Top", "shirt_top", "../../etc"]
    ids = [made.item(name, picture(n), sort=kinds[n % 5]) for n, name in enumerate(names)]
    made.in_tar(ids[:5])
    made.triplet([ids[0]], [ids[1]], "make it red", [ids[0], *ids[2:6]])
    made.triplet([ids[0]], [ids[1]], ODD, [ids[0], *ids[2:6]])
    made.triplet([ids[0]], [ids[1]], "=1+1", [ids[0], *ids[2:6]])
    made.triplet([ids[1]], [ids[0]], "back again", [ids[1]])
    made.triplet([ids[2]], [ids[3], ids[4]], "either", [ids[2], *ids[5:11]])
    made.triplet([ids[5], ids[6]], [ids[7]], "both of them", [ids[5], ids[8]], score=None)
    made.triplet([ids[8]], [ids[9]], "null", [], split="val")
    made.triplet([ids[9]], [ids[8]], "N/A", [ids[9]], split="val")
    made.triplet([ids[10]], [ids[11]], "for the test", [ids[10]], split="test")
    made.triplet([ids[12]], [ids[13]], "never split", split=None, verdict="rejected")
    return made


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A run on the local disk."""
    return fill(Made(str(tmp_path / "run"), str(tmp_path / "photos"))).finish()


@pytest.fixture
def far() -> Made:
    """The same run in a store that is no disk."""
    root = f"memory://{uuid.uuid4().hex}"
    return fill(Made(f"{root}/run", f"{root}/photos")).finish()


def official(*parts: str) -> Any:
    """A shared official file; skips the test where it is absent."""
    root = Path(__file__).resolve().parents[2] / os.environ.get(
        "DATAGEN_TEST_DATA", "../shared/data"
    )
    path = root.joinpath("cir", *parts)
    if not path.is_file():
        pytest.skip(f"needs {path} (DATAGEN_TEST_DATA)")
    return json.loads(path.read_text(encoding="utf-8"))


def shape(value: Any) -> Any:
    """The structure of a JSON value: keys and types, of a list that of its first entry."""
    if isinstance(value, dict):
        # Maps from names to values have no fixed keys.
        if all(isinstance(one, (float, str)) for one in value.values()) and "id" not in value:
            named = {"pairid", "candidate", "reference"} & value.keys()
            if not named:
                return {"*": {type(one).__name__ for one in value.values()}}
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def media_at(root: str, path: str, extensions: tuple[str, ...] = ("",)) -> bytes:
    """The one file at ``path`` below ``root``, with one of the extensions."""
    found = [p for p in (Path(root, path + end) for end in extensions) if p.is_file()]
    assert len(found) == 1, (root, path)
    return found[0].read_bytes()


def tree(root: str | Path) -> dict[str, str]:
    """Every file below a folder and the hash of its bytes."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(root).rglob("*"))
        if path.is_file()
    }
