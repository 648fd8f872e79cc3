"""GeneCIS and EgoCVR on their official files; the others on tiny files of the official forms."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_retriever import Known, first, official, query, ranked, share, told, touch

from datagen.errors import DatagenError
from datagen.evaluation import crops, protocols
from datagen.evaluation.benchmark import Benchmark
from datagen.evaluation.measure import measure


def figures(protocol: Any, read: Benchmark, kind: str = "composed") -> dict[tuple[str, str], float]:
    return told(measure(Known(), protocol, read, probes=kind != "composed").lines, kind)


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


# ---------------------------------------------------------------- GeneCIS


def test_genecis_objects_are_ranked_in_their_own_galleries(tmp_path: Path) -> None:
    (tmp_path / "genecis").symlink_to(official("genecis"))
    rows = json.loads((tmp_path / "genecis/change_object.json").read_text())
    members = [one for row in rows for one in (row["reference"], row["target"], *row["gallery"])]
    names = {f"{one['val_image_id']:012d}.jpg" for one in members}
    touch(tmp_path / "val2017", names)
    protocol = protocols.protocol("genecis", ["tasks=[change_object]"])
    found = figures(protocol, protocol.read(str(tmp_path)))
    hits: dict[int, list[bool]] = {1: [], 2: [], 3: []}
    for row in rows:
        target, reference = (
            f"{row[side]['val_image_id']:012d}" for side in ("target", "reference")
        )
        own = [target, *(f"{one['val_image_id']:012d}" for one in row["gallery"])]
        place = ranked(query([reference], row["condition"]), own).index(target)
        for k, some in hits.items():
            some.append(place < k)
    for k, some in hits.items():
        assert found["change_object", f"R@{k}"] == pytest.approx(share(some))


def attribute(number: int, box: Sequence[float]) -> dict[str, Any]:
    return {"image_id": number, "instance_bbox": list(box), "object_name": "shirt"}


def test_genecis_attributes_are_cut_out_and_odd_galleries_left_out(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "genecis").mkdir()
    (tmp_path / "VG_100K").mkdir()
    rng = np.random.default_rng(0)
    for number in (1, 2, 3):
        pixels = rng.integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"VG_100K/{number}.jpg", quality=95)
    row = {
        "reference": attribute(1, (30, 20, 10, 10)),
        "target": attribute(2, (2, 2, 20, 10)),
        "gallery": [attribute(3, (0, 0, 8, 8)), attribute(2, (50, 30, 10, 10))],
        "condition": "blue",
    }
    odd = {**row, "gallery": row["gallery"][:1]}
    (tmp_path / "genecis/focus_attribute.json").write_text(json.dumps([row, odd, row]))
    protocol = protocols.protocol("genecis", ["tasks=[focus_attribute]"])
    read = protocol.read(str(tmp_path))
    (part,) = read.parts
    assert [len(one.among or ()) for one in part.asked] == [3, 3]
    assert "1 queries left out" in read.notes[0]
    boxes = [read.pictures[name].box for name in part.asked[0].among or ()]
    # As the official code has it: the left and upper sides move, what is cut off adds to the right.
    assert boxes[0] == pytest.approx((0, 0, 34, 17))
    assert boxes[1] == pytest.approx((0, 0, 13.6, 13.6))
    assert boxes[2] == pytest.approx((43, 23, 60, 40))
    with crops.places([read.pictures[name] for name in part.asked[0].among or ()]) as media:
        sizes = [Image.open(one["path"]).size for one in media if one]
        cut = np.asarray(Image.open((media[0] or {})["path"]))
    assert sizes == [(34, 34), (14, 14), (17, 17)]
    whole = np.asarray(Image.open(tmp_path / "VG_100K/2.jpg"))
    assert (cut[8:25] == whole[:17, :34]).all()
    assert not cut[:8].any()
    assert not cut[25:].any()
    assert not any(Path((one or {})["path"]).exists() for one in media)


# ---------------------------------------------------------------- EgoCVR


def ego(tmp_path: Path) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Rows of the official queries, and the video of each clip, whose files are there."""
    (tmp_path / "annotation").mkdir()
    (tmp_path / "annotation/egocvr").mkdir()
    for name in ("egocvr_annotations.csv", "egocvr_data.csv"):
        (tmp_path / "annotation/egocvr" / name).symlink_to(official("egocvr", name))
    folder = tmp_path / "annotation/egocvr"
    rows = list(csv.DictReader((folder / "egocvr_annotations.csv").open()))
    videos = {
        row["clip_name"]: row["video_uid"]
        for row in csv.DictReader((folder / "egocvr_data.csv").open())
    }
    touch(
        tmp_path / "data/clips_nooverlap_fullscale",
        [f"{video}/{name}.mp4" for name, video in videos.items()],
    )
    return rows, videos


def test_egocvr_is_asked_of_all_clips_and_of_those_of_one_video(tmp_path: Path) -> None:
    rows, videos = ego(tmp_path)
    protocol = protocols.protocol("egocvr")
    read = protocol.read(str(tmp_path))
    assert any("galleries made of egocvr_data.csv" in note for note in read.notes)
    found = measure(Known(), protocol, first(read, 200), probes=False)
    hits: dict[str, list[bool]] = {"global": [], "local": []}
    for row in rows:
        own = row["video_clip_id"]
        targets = set(json.loads(row["target_clip_ids"].replace("'", '"'))) - {own}
        if not targets:
            continue
        if len(hits["local"]) == 200:
            break
        asked = query([own], row["instruction"].strip())
        everything = ranked(asked, list(videos), [own])
        local = [name for name in everything if videos[name] == videos[own]]
        if len(hits["global"]) < 200:
            hits["global"].append(bool(targets & set(everything[:10])))
        if len(local) >= 2:
            hits["local"].append(bool(targets & set(local[:3])))
    values = told(found.lines)
    assert values["global", "R@10"] == pytest.approx(share(hits["global"]))
    assert values["local", "R@3"] == pytest.approx(share(hits["local"]))
    # A query that is its own only target is none.
    itself = sum(row["target_clip_ids"] == f"['{row['video_clip_id']}']" for row in rows)
    assert len(read.parts[0].asked) == len(rows) - itself


def test_egocvr_follows_the_official_lists_of_galleries(tmp_path: Path) -> None:
    folder = tmp_path / "egocvr"
    clips = [f"v{n // 4}_{n}_{n + 1}" for n in range(8)]
    write_csv(
        folder / "egocvr_data.csv",
        [("clip_name", "narration_text", "video_uid"), *((c, "x", c[:2]) for c in clips)],
    )
    header = ("video_clip_id", "target_clip_ids", "video_clip_narration", "target_clip_narration")
    more = ("instruction", "modified_captions", "global_idx", "local_idx")
    rows = [
        (
            clips[0],
            f"['{clips[1]}', '{clips[2]}']",
            "a",
            "b",
            "move",
            " moved",
            "[1, 2, 3, 7]",
            "[1, 2]",
        ),
        (clips[4], f"['{clips[5]}']", "a", "b", "turn", " turned", "[0, 1, 5, 5]", "[5]"),
    ]
    write_csv(folder / "egocvr_annotations_gallery.csv", [header + more, *rows])
    touch(tmp_path / "clips", [f"{c[:2]}/{c}.mp4" for c in clips])
    protocol = protocols.protocol(
        "egocvr", ["text=modified_captions", f"clips={tmp_path / 'clips'}"]
    )
    read = protocol.read(str(tmp_path))
    everywhere, local = read.parts
    assert [one.among for one in everywhere.asked] == [
        (clips[1], clips[2], clips[3], clips[7]),
        (clips[0], clips[1], clips[5]),
    ]
    # One clip is no gallery.
    assert [one.query for one in local.asked] == [0]
    # Without its target in the official gallery a query is a miss, as in the official code.
    away = (clips[0], f"['{clips[0]}']", "a", "b", "stay", " stayed", "[1, 2, 3]", "[1, 2]")
    write_csv(folder / "egocvr_annotations_gallery.csv", [header + more, *rows, away])
    more_read = protocol.read(str(tmp_path))
    assert any(note.startswith("global: 1 queries are misses") for note in more_read.notes)
    for kind in ("composed", "text alone"):
        some, all_of_it = (figures(protocol, one, kind) for one in (read, more_read))
        assert all_of_it["global", "R@10"] == pytest.approx(some["global", "R@10"] * 2 / 3)
        assert all_of_it["local", "R@3"] == pytest.approx(some["local", "R@3"] / 2)
    assert read.queries[0].texts == ("moved",)
    assert any(note.startswith("local: 1 queries left out") for note in read.notes)
    bad = [(*rows[0][:6], "[99]", "[1]")]
    write_csv(folder / "egocvr_annotations_gallery.csv", [header + more, *bad])
    with pytest.raises(DatagenError, match=r"row 1: global_idx .* \(0 to 7\)"):
        protocol.read(str(tmp_path))
    other = [(*row[:6], "[6, 7]", "[6, 7]") for row in rows]
    write_csv(folder / "egocvr_annotations_gallery.csv", [header + more, *other])
    with pytest.raises(DatagenError, match="2 of 2 queries have no target"):
        protocol.read(str(tmp_path))


# ---------------------------------------------------------------- WebVid-CoVR


def test_covr_ranks_the_targets_of_all_queries_without_the_reference(tmp_path: Path) -> None:
    header = ("txt1", "txt2", "sim_txt", "pth1", "pth2", "edit", "scores")
    rows = [
        (
            f"before {n}",
            f"after {n}",
            0.8,
            f"00/{n}",
            f"00/{n + 1}",
            f"edit {n}",
            "[0.1]",
        )
        for n in range(30)
    ]
    write_csv(tmp_path / "annotation/webvid-covr/webvid8m-covr_test.csv", [header, *rows])
    names = {str(row[side]) for row in rows for side in (3, 4)}
    touch(tmp_path / "WebVid/8M/train", [f"{name}.mp4" for name in names])
    protocol = protocols.protocol("webvid-covr".removeprefix("webvid-"))
    read = protocol.read(str(tmp_path))
    retriever = Known()
    found = told(measure(retriever, protocol, read, probes=False).lines)
    gallery = [str(n) for n in range(1, 31)]
    hits = [
        str(n + 1) in ranked(query([str(n)], f"edit {n}"), gallery, [str(n)])[:10]
        for n in range(30)
    ]
    assert found["gallery", "R@10"] == pytest.approx(share(hits))
    mean = sum(found["gallery", f"R@{k}"] for k in (1, 5, 10, 50)) / 4
    assert found["mean", "R@1, 5, 10, 50"] == pytest.approx(mean)
    media = {
        Path(place["path"]).stem: text for place, text in retriever.asked if isinstance(place, dict)
    }
    assert media == {str(n + 1): f"after {n}" for n in range(30)}
    places = [place for place, _ in retriever.asked if isinstance(place, dict)]
    assert {place["modality"] for place in places} == {"video"}


# ---------------------------------------------------------------- i-CIR


def test_icir_sees_the_database_of_its_instance_and_weighs_instances_alike(tmp_path: Path) -> None:
    database, asking = [], []
    for instance, number in (("temple", 12), ("toy, red", 9)):
        for n in range(number):
            text = ("at night", "as a drawing", "other")[n % 3]
            database.append((f"icir/database/{instance[:3]}{n}.jpg", text, instance))
        for n in range(3 if instance == "temple" else 1):
            asking.append((f"icir/query/{instance[:3]}q{n}.jpg", "at night", instance))
    data = tmp_path / "icir"
    write_csv(data / "database_files.csv", database)
    write_csv(data / "query_files.csv", asking)
    touch(tmp_path, [row[0] for row in (*database, *asking)])
    protocol = protocols.protocol("i-cir")
    found = figures(protocol, protocol.read(str(data)))
    plain = protocols.protocol("icir", ["precision=plain"])
    other = figures(plain, plain.read(str(data)))
    areas: dict[str, list[float]] = {}
    precisions: list[float] = []
    for path, text, instance in asking:
        own = [Path(row[0]).stem for row in database if row[2] == instance]
        right = {Path(row[0]).stem for row in database if row[1:] == (text, instance)}
        order = ranked(query([Path(path).stem], text), own)
        area = total = 0.0
        seen = 0
        for place, name in enumerate(order):
            if name in right:
                before = seen / place if place else 1.0
                seen += 1
                area += (before + seen / (place + 1)) / 2 / len(right)
                total += seen / (place + 1) / len(right)
        areas.setdefault(instance, []).append(area)
        precisions.append(total)
    assert found["all", "mAP"] == pytest.approx(np.mean(np.concatenate([*areas.values()])))
    assert found["all", "macro mAP"] == pytest.approx(np.mean([np.mean(v) for v in areas.values()]))
    assert other["all", "mAP"] == pytest.approx(np.mean(precisions))


# ---------------------------------------------------------------- PatternCom


def test_patterncom_asks_for_the_other_values_of_an_attribute(tmp_path: Path) -> None:
    table = [
        ("swimmingpool001.jpg", "shape", "oval"),
        ("swimmingpool002.jpg", "shape", "kidney"),
        ("swimmingpool003.jpg", "shape", "oval"),
        ("closedroad001.jpg", "shape", "curved"),
        ("intersection001.jpg", "shape", "cross"),
        ("intersection002.jpg", "shape", "cross"),
    ]
    write_csv(tmp_path / "PatternCom/shape.csv", table)
    others = [f"airplane00{n}.jpg" for n in range(1, 9)]
    names = [row[0] for row in table] + others
    touch(tmp_path / "images", [f"{name.rstrip('.jpg0123456789')}/{name}" for name in names])
    protocol = protocols.protocol("patterncom", ["attributes=[shape]"])
    read = protocol.read(str(tmp_path))
    asked = [
        (read.queries[one.query].references[0][:-4], read.queries[one.query].texts[0], one.targets)
        for one in read.parts[0].asked
    ]
    oval = ("swimmingpool001.jpg", "swimmingpool003.jpg")
    cross = ("intersection001.jpg", "intersection002.jpg")
    assert asked == [
        ("swimmingpool001", "kidney", ("swimmingpool002.jpg",)),
        ("swimmingpool002", "oval", oval),
        ("swimmingpool003", "kidney", ("swimmingpool002.jpg",)),
        # A closed road and an intersection are one class: roads.
        ("closedroad001", "cross", cross),
        ("intersection001", "curved", ("closedroad001.jpg",)),
        ("intersection002", "curved", ("closedroad001.jpg",)),
    ]
    stems = [name[:-4] for name in sorted(names)]
    precisions = []
    for reference, text, targets in asked:
        order = ranked(query([reference], text), stems)
        places = sorted(order.index(name[:-4]) + 1 for name in targets)
        precisions.append(np.mean([(n + 1) / place for n, place in enumerate(places)]))
    found = measure(Known(), protocol, read, probes=False)
    assert told(found.lines)["shape", "mAP"] == pytest.approx(np.mean(precisions))
    assert found.lines[0].partial == "14 of 30,400 items"


# ---------------------------------------------------------------- ITCPR


def test_itcpr_finds_the_same_instance_and_tells_how_far_the_last_is(tmp_path: Path) -> None:
    images = [
        {"file_path": f"PRCC/test/{n}.jpg", "person_id": n, "instance_id": n % 7 if n < 14 else -1}
        for n in range(40)
    ]
    asking = [
        {
            "file_path": f"LAST/q{n}.jpg",
            "person_id": n,
            "instance_id": n,
            "caption": f"in a coat {n}",
        }
        for n in range(7)
    ]
    (tmp_path / "query.json").write_text(json.dumps(asking))
    (tmp_path / "gallery.json").write_text(json.dumps(images))
    touch(tmp_path, [str(one["file_path"]) for one in (*images, *asking)])
    protocol = protocols.protocol("itcpr")
    found = figures(protocol, protocol.read(str(tmp_path)))
    hits, precisions, penalties = [], [], []
    for n in range(7):
        order = ranked(query([f"q{n}"], f"in a coat {n}"), [str(m) for m in range(40)])
        places = sorted(order.index(str(m)) + 1 for m in (n, n + 7))
        hits.append(places[0] <= 5)
        precisions.append((1 / places[0] + 2 / places[1]) / 2)
        penalties.append(2 / places[1])
    assert found["gallery", "R@5"] == pytest.approx(share(hits))
    assert found["gallery", "mAP"] == pytest.approx(np.mean(precisions))
    assert found["gallery", "mINP"] == pytest.approx(np.mean(penalties))
    (tmp_path / "gallery.json").write_text(json.dumps(images[1:7]))
    with pytest.raises(DatagenError, match=r"entry 0: no image .* instance_id 0"):
        protocol.read(str(tmp_path))
