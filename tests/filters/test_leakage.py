"""Leaks into a second folder, made of copies that the tests know."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_clips
from PIL import Image

import datagen
from datagen import colours, leaks, media, perceptual, recipe, registry, schema, store
from datagen.errors import DatagenError, RecipeError
from datagen.filters.leakage import Leakage
from datagen.step import Context

DATA = Path(__file__).resolve().parents[2] / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
VERDICT = ("verdict", "rule", "detail")


def operator(*against: Path | str, **options: Any) -> Leakage:
    return Leakage(Leakage.Settings(against=[str(one) for one in against], **options))


def item(path: Path | None, key: str | None = None, labels: str = "{}") -> dict[str, Any]:
    """An item of a file, as a source gives it; of no file where there is none."""
    place = None
    if path is not None:
        data = path.read_bytes()
        found = media.probe(data)
        place = {
            **dict.fromkeys(field.name for field in schema.MEDIA),
            "path": str(path),
            "offset": 0,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "modality": found.modality,
            "seconds": found.seconds,
        }
    name = key or (path.name if path else "none")
    return {
        "id": schema.content_id(name),
        "key": name,
        "source": "test",
        "media": place,
        "captions": [],
        "labels": labels,
    }


def judged(
    step: Leakage, rows: list[dict[str, Any]], context: Context | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, str | None, str | None]]]:
    """What was measured of each item, by key, and its verdict, rule and detail."""
    table = pa.Table.from_pylist(rows, schema=schema.ITEMS)
    where = context or Context()
    step.ready(where)
    step.open(where)
    found = step(table.select([c for c in step.columns("items") if c in table.column_names]))
    assert {f"items.{name}" for name in set(found.column_names) - {"id", *VERDICT}} == step.gives(
        "items"
    )
    halves = [step(table.slice(0, 2)), step(table.slice(2))]
    assert pa.concat_tables(halves).equals(found)
    for name in found.column_names:
        if name not in ("id", *VERDICT):
            table = table.append_column(name, found[name])
    decided = step.decide(table, table).to_pylist()
    own = dict(zip(found["id"].to_pylist(), found.to_pylist(), strict=True))
    told = {}
    for row, verdict in zip(rows, decided, strict=True):
        lost = own[row["id"]]
        chosen = lost if lost["verdict"] == "failed" else verdict
        told[row["key"]] = (chosen["verdict"], chosen["rule"], chosen["detail"])
    return {row["key"]: own[row["id"]] for row in rows}, told


def test_the_registry_finds_the_operator_by_its_file() -> None:
    assert registry.find("filter", "leakage") is Leakage


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Photos and clips of one's own, and a test set with copies of some."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs" / "deeper"
    mine.mkdir()
    theirs.mkdir(parents=True)
    for number in range(6):
        tiny_clips.picture(number, (240, 180)).save(mine / f"{number}.png")
    (theirs / "same.png").write_bytes((mine / "0.png").read_bytes())
    tiny_clips.picture(1, (240, 180)).resize((160, 120)).save(theirs / "small.jpg", quality=80)
    tiny_clips.picture(2, (240, 180)).save(theirs / "again.webp", quality=80)
    tiny_clips.picture(99, (240, 180)).save(theirs / "other.png")
    (mine / "clip.mp4").write_bytes(tiny_clips.fade(16, 7))
    (mine / "free.mp4").write_bytes(tiny_clips.fade(16, 8))
    smaller = tiny_clips.encoded(tiny_clips.faded(16, 7), size=(64, 48), crf=28)
    (theirs / "copy.mp4").write_bytes(smaller)
    (theirs / "notes.txt").write_text("no picture")
    return mine, theirs.parent


def test_copies_in_a_folder_are_found_by_bytes_and_by_sight(folders: tuple[Path, Path]) -> None:
    mine, theirs = folders
    rows = [item(path) for path in sorted(mine.iterdir())] + [item(None)]
    measured, told = judged(operator(theirs), rows)
    assert {key: rule for key, (_, rule, _) in told.items()} == {
        "0.png": "leak_same_bytes",
        "1.png": "leak_near_duplicate",
        "2.png": "leak_near_duplicate",
        "3.png": None,
        "4.png": None,
        "5.png": None,
        "clip.mp4": "leak_near_duplicate",
        "free.mp4": None,
        "none": None,
    }
    assert str(told["0.png"][2]).endswith(f"{theirs}: deeper/same.png")
    assert f"bits from {theirs}: deeper/small.jpg" in str(told["1.png"][2])
    assert f"{theirs}: deeper/copy.mp4" in str(told["clip.mp4"][2])
    assert measured["0.png"]["score_leak_distance"] == 0
    # The same from the columns that the filter duplicates leaves.
    for row in rows:
        if str(row["key"]).endswith(".png"):
            phash, grid = perceptual.signature(Path(row["media"]["path"]).read_bytes())
            row |= {"phash": phash, "colours": grid}
    _, only_bytes = judged(operator(theirs, by=["sha256"]), rows)
    assert [key for key, (verdict, _, _) in only_bytes.items() if verdict != "kept"] == ["0.png"]


def test_the_nearest_picture_is_that_of_a_search_through_all() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 20, 400, dtype=np.uint64)
    cells = rng.integers(100, 118, (400, colours.BYTES), dtype=np.uint8)
    table = pa.table(
        {
            "name": [f"{n:03d}" for n in range(400)],
            "sha256": pa.nulls(400, pa.string()),
            "phash": hashes,
            "colours": pa.array([row.tobytes() for row in cells], pa.binary(colours.BYTES)),
            "moments": pa.nulls(400, pa.large_binary()),
            "seconds": pa.nulls(400, pa.float64()),
            "fault": pa.nulls(400, pa.string()),
        }
    )
    here = leaks.Collection("/x", "x", "folder")
    for tolerance in (14, 16, None):
        matcher = leaks.Matcher([(here, table)], tolerance)
        for _ in range(20):
            phash = int(rng.integers(0, 1 << 20))
            grid = rng.integers(100, 118, colours.BYTES, dtype=np.uint8)
            best = None
            for number in range(400):
                bits = (phash ^ int(hashes[number])).bit_count()
                levels = int(colours.distances(grid[None], cells[number : number + 1])[0])
                near = bits <= leaks.REACH and (tolerance is None or levels <= tolerance)
                if near and (best is None or bits < best[0]):
                    best = (bits, levels, f"x: {number:03d}")
            found = matcher.nearest_image(phash, grid.tobytes())
            assert (found and (found.bits, found.levels, found.where)) == best


def test_a_radius_decides_and_the_score_stays(folders: tuple[Path, Path]) -> None:
    mine, theirs = folders
    image = Image.open(mine / "3.png")
    image.crop((3, 3, 237, 177)).save(theirs / "cropped.jpg", quality=40)
    rows = [item(mine / "3.png")]
    measured, _ = judged(operator(theirs), rows)
    bits = measured["3.png"]["score_leak_distance"]
    assert bits
    assert bits > 0
    assert "radius" in Leakage.rules
    for radius, verdict in ((int(bits) - 1, "kept"), (int(bits), "rejected")):
        again, told = judged(operator(theirs, radius=radius), rows)
        assert again == measured
        assert told["3.png"][0] == verdict


def test_pairs_and_triplets_go_with_any_member_that_leaks(folders: tuple[Path, Path]) -> None:
    mine, theirs = folders
    rows = [item(mine / f"{number}.png") for number in range(6)]
    step = operator(theirs)
    step.open(Context())
    items = pa.Table.from_pylist(rows, schema=schema.ITEMS)
    found = step(items)
    for name in ("leak_same_bytes", "leak_same_name", "leak_near_duplicate", "score_leak_distance"):
        items = items.append_column(name, found[name])
    members = [schema.member(row) for row in rows]

    def triplet(name: str, reference: int, target: int, negative: int) -> dict[str, Any]:
        return {
            "id": name,
            "references": [members[reference]],
            "targets": [members[target]],
            "negatives": [{"kind": "mined", "score": 0.5, "item": members[negative]}],
        }

    made = [
        triplet("a", 3, 4, 5),
        triplet("b", 0, 4, 1),
        triplet("c", 3, 1, 4),
        triplet("d", 3, 4, 2),
    ]
    table = pa.Table.from_pylist(made, schema=pa.schema([*schema.TRIPLETS, schema.NEGATIVES]))
    told = {row["id"]: row for row in step.decide(table, items).to_pylist()}
    assert [told[name]["rule"] for name in "abcd"] == [
        None,
        "leak_same_bytes",
        "leak_near_duplicate",
        "leak_near_duplicate",
    ]
    assert told["b"]["detail"].startswith(f"reference {rows[0]['id']}: the bytes of")
    assert told["c"]["detail"].startswith(f"target {rows[1]['id']}: ")
    assert told["d"]["detail"].startswith(f"negative {rows[2]['id']}: ")


def test_lists_of_names_match_keys_files_and_labels(tmp_path: Path) -> None:
    tiny_clips.picture(0).save(tmp_path / "000000002097.png")
    tiny_clips.picture(1).save(tmp_path / "b.png")
    (tmp_path / "test.json").write_text(
        json.dumps([{"reference_img_id": 2097, "target": "asin-7", "caption": "b"}])
    )
    rows = [
        item(tmp_path / "000000002097.png", key="first"),
        item(tmp_path / "b.png", labels='{"asin": "asin-7"}'),
        item(None, key="shop/asin-7"),
    ]
    _, told = judged(operator(tmp_path / "test.json"), rows)
    assert [rule for _, rule, _ in told.values()] == ["leak_same_name", None, "leak_same_name"]
    assert told["first"][2] == f"the name of {tmp_path}/test.json: 2097"
    _, told = judged(operator(tmp_path / "test.json", label="asin"), rows)
    assert {rule for _, rule, _ in told.values()} == {"leak_same_name"}


def test_fingerprints_stand_for_a_folder_and_are_made_once(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = folders
    rows = [item(path) for path in sorted(mine.iterdir())]
    file = tmp_path / "prints.parquet"
    store.write_table(str(file), leaks.fingerprints(leaks.Collection.of(str(theirs))))
    assert leaks.Collection.of(str(file)).kind == "fingerprints"
    _, told = judged(operator(theirs), rows)
    _, by_file = judged(operator(file), rows)
    assert [one[:2] for one in by_file.values()] == [one[:2] for one in told.values()]
    context = Context(out_dir=str(tmp_path / "run"))
    judged(operator(theirs), rows, context)
    monkeypatch.setattr("datagen.leaks.index.measure", None)
    _, again = judged(operator(theirs), rows, context)
    assert again == told
    before = operator(theirs).revision()
    (theirs / "deeper" / "same.png").unlink()
    assert operator(theirs).revision() != before


def test_a_collection_that_is_not_there_is_told_before_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.bin").write_bytes(b"")
    (tmp_path / "bad.json").write_text("{")
    for name, told in {
        "absent": "no such file or folder",
        "empty": "holds no image or clip",
        "odd.bin": "neither a folder",
        "bad.json": "cannot be read",
    }.items():
        (fault,) = operator(tmp_path / name).check()
        assert fault.startswith("against: ")
        assert name in fault
        assert told in fault
        assert "\n" not in fault


def test_a_way_that_would_compare_nothing_is_told(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    _, theirs = folders
    (tmp_path / "list.txt").write_text("a\n")
    for against, by, word in (
        (theirs, ["names"], "sha256 or perceptual"),
        (tmp_path / "list.txt", ["sha256"], "names"),
    ):
        (fault,) = operator(against, by=by).check()
        assert word in fault
    assert not list(operator(theirs, tmp_path / "list.txt").check())


def test_odd_names_of_files_stay_on_one_line(folders: tuple[Path, Path]) -> None:
    mine, theirs = folders
    (theirs / "a\nb\x1b[31m.png").write_bytes((mine / "5.png").read_bytes())
    _, told = judged(operator(theirs), [item(mine / "5.png")])
    assert told["5.png"][2] == f"the bytes of {theirs}: a�b�[31m.png"
    Path(os.fsdecode(os.fsencode(theirs) + b"/\xff.png")).write_bytes(b"x")
    (fault,) = operator(theirs).check()
    assert "not UTF-8" in fault
    fault.encode()


def test_files_of_a_collection_that_cannot_be_read_stop_or_are_skipped(
    folders: tuple[Path, Path],
) -> None:
    mine, theirs = folders
    (theirs / "broken.jpg").write_bytes(b"\xff\xd8\xff no")
    with pytest.raises(DatagenError, match=r"1 of 6 files cannot be compared: broken\.jpg"):
        operator(theirs).ready(Context())
    operator(theirs, unreadable="skip").ready(Context())
    (mine / "mine.jpg").write_bytes((mine / "0.png").read_bytes())
    row = item(mine / "mine.jpg")
    (mine / "mine.jpg").write_bytes((mine / "0.png").read_bytes()[:200])
    _, told = judged(operator(theirs, unreadable="skip", by=["perceptual"]), [row])
    assert told["mine.jpg"][0] == "failed"


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "photos").is_dir(), reason="no real photos (DATAGEN_TEST_DATA)")
def test_copies_of_real_photos_and_clips_are_found_and_no_others(tmp_path: Path) -> None:
    photos = sorted((DATA / "photos/coco/images").glob("*.jpg"))[:24]
    clips = sorted((DATA / "videos/exercise_2phase").glob("*.mp4"))[:6]
    theirs = tmp_path / "benchmark"
    theirs.mkdir()
    for number, photo in enumerate(photos[:16]):
        image = Image.open(photo).convert("RGB")
        if number % 2:
            image = image.resize((image.width // 2, image.height // 2))
        image.save(theirs / f"{number}.jpg", quality=60 + number)
    for number, clip in enumerate(clips[:3]):
        frames = [frame.image for frame in datagen.frames.sample(clip.read_bytes(), 16)]
        (theirs / f"{number}.mp4").write_bytes(tiny_clips.encoded(frames, crf=30))
    rows = [item(path) for path in [*photos, *clips]]
    _, told = judged(operator(theirs), rows)
    leaked = {key for key, (_, rule, _) in told.items() if rule == "leak_near_duplicate"}
    copied = {path.name for path in [*photos[:16], *clips[:3]]}
    assert leaked <= copied
    # A copy of half the size of an odd one may differ by more than the tolerance.
    assert len(leaked) >= 18


def test_a_run_leaks_into_another_and_by_the_vectors_of_its_space(
    tmp_path: Path, ray: None
) -> None:
    """Two runs of the same scenes in other sizes: what one holds is what the other loses."""
    theirs = tmp_path / "theirs"
    source = {"type": "tinyworld", "count": 12, "size": 64, "clips": 0.2}
    embed = {"embed": {"space": "image", "model": "bundled:tinyclip", "frames": 3}}
    datagen.run(
        {
            "source": source,
            "steps": [{"embed": {"space": "caption", "model": "tfidf", "width": 4}}],
        },
        str(theirs),
    )
    step = {"op": "leakage", "against": str(theirs), "space": "image", "cosine": 0.99}
    mine = tmp_path / "mine"
    recipe = {"source": {**source, "count": 24}, "steps": [embed, {"filter": step}]}
    summary = datagen.run(recipe, str(mine)).steps[-1]
    assert summary.rejected == {"leak_same_bytes": 12}
    run = datagen.load(str(mine))
    held = set(datagen.load(str(theirs)).items()["key"].to_pylist())
    lost = run.verdicts("leakage").filter(
        pa.compute.equal(run.verdicts("leakage")["verdict"], "rejected")
    )
    keys = dict(zip(run.items()["id"].to_pylist(), run.items()["key"].to_pylist(), strict=True))
    assert {keys[name] for name in lost["id"].to_pylist()} == held
    scores = store.read_table(str(next(mine.glob("steps/filter-leakage-*/journal/part-*"))))
    same = scores.filter(scores["leak_same_bytes"].is_valid())["score_leak_similarity"].to_pylist()
    assert min(same) > 0.998


def test_a_space_of_captions_is_told_before_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a.jpg\n")
    steps = [
        {"embed": {"space": "caption", "model": "tfidf"}},
        {"filter": {"op": "leakage", "against": str(tmp_path / "names.txt"), "space": "caption"}},
    ]
    with pytest.raises(RecipeError, match="'caption' is not made of images and clips"):
        recipe.check({"source": {"type": "tinyworld", "count": 9}, "steps": steps})
    steps[1]["filter"]["space"] = "image"
    with pytest.raises(RecipeError) as told:
        recipe.check({"source": {"type": "tinyworld", "count": 9}, "steps": steps})
    assert len(told.value.faults) == 1
    steps[0]["embed"] = {"space": "image", "model": "bundled:tinyclip"}
    recipe.check({"source": {"type": "tinyworld", "count": 9}, "steps": steps})
