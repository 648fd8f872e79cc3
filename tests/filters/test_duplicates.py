"""The duplicates filter: one of near-duplicate items, no pair of a picture with itself."""

from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path
from typing import Any

import broken_media
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_clips
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from datagen import colours, frames, moments, registry, schema
from datagen.filters.duplicates import Duplicates

PHASH = pa.field("phash", pa.uint64())
COLOURS = pa.field("colours", pa.binary(colours.BYTES))
MOMENTS = pa.field("moments", pa.large_binary())
MEASURED = ("phash", "colours", "moments")


def operator(**options: Any) -> Duplicates:
    return Duplicates(Duplicates.Settings(**options))


def item(name: str, path: str | None = None) -> dict[str, Any]:
    place = None if path is None else {"path": path, "offset": 0, "size": None}
    return {
        "id": name,
        "key": f"key of {name}",
        "source": "test",
        "media": place,
        "captions": [],
        "labels": "{}",
    }


def _png(seed: int) -> bytes:
    out = io.BytesIO()
    tiny_clips.picture(seed).save(out, "png")
    return out.getvalue()


def items(hashes: dict[str, int | None], tones: dict[str, int] | None = None) -> pa.Table:
    """Items of these hashes, each of one grey tone (0 where none is given)."""
    rows = []
    for name, value in hashes.items():
        grid = None if value is None else bytes([(tones or {}).get(name, 0)]) * colours.BYTES
        rows.append(item(name) | {"phash": value, "colours": grid})
    return pa.Table.from_pylist(rows, schema=pa.schema([*schema.ITEMS, PHASH, COLOURS]))


def triplets(*rows: tuple[str, list[str], list[str], str]) -> pa.Table:
    made = [
        {
            "id": name,
            "references": [schema.member(item(one)) for one in references],
            "targets": [schema.member(item(one)) for one in targets],
            "evidence": None,
            "provenance": [],
            "pair": name,
            "modification": text,
        }
        for name, references, targets, text in rows
    ]
    return pa.Table.from_pylist(made, schema=schema.TRIPLETS)


def decided(table: pa.Table, **where: Any) -> dict[str, str]:
    """The rule, or the verdict where there is none, by id."""
    assert table.schema == schema.VERDICTS
    return {row["id"]: row["rule"] or row["verdict"] for row in table.to_pylist()}


def test_the_registry_finds_the_operator_by_its_file() -> None:
    assert registry.find("filter", "duplicates") is Duplicates


def test_pictures_are_hashed_and_broken_ones_fail_with_their_rule(tmp_path: Path) -> None:
    expected = broken_media.make(tmp_path)
    names = sorted(expected)
    rows = [item(name, str(tmp_path / name)) for name in names] + [item("no picture")]
    table = pa.Table.from_pylist(rows, schema=schema.ITEMS).select(["id", "media"])
    found = operator()(table)
    assert found.column_names == ["id", *MEASURED, "verdict", "rule", "detail"]
    assert found["phash"].type == pa.uint64()
    assert found["colours"].type == pa.binary(768)
    assert operator().gives("items") == {f"items.{name}" for name in MEASURED}
    assert found["moments"].null_count == found.num_rows
    by_name = {row["id"]: row for row in found.to_pylist()}
    for name, rule in expected.items():
        row = by_name[name]
        assert (row["rule"] or row["verdict"]) == rule, name
        assert (row["phash"] is not None) == (row["colours"] is not None) == (rule == "kept")
        assert (row["verdict"] == "failed") == bool(row["detail"]) == (rule != "kept")
    assert by_name["no picture"]["rule"] == "no_media"
    halves = pa.concat_tables([operator()(table.slice(0, 30)), operator()(table.slice(30))])
    assert halves.equals(found)
    assert operator()(table.slice(0, 0)).num_rows == 0


@pytest.mark.parametrize("kind", ["image", "video"])
def test_what_was_replaced_since_it_was_listed_fails(kind: str, tmp_path: Path) -> None:
    make = _png if kind == "image" else lambda seed: tiny_clips.fade(6, seed)
    path, first, other = tmp_path / "a", make(0), make(1)
    path.write_bytes(first)
    row = item("a", str(path))
    told = {"sha256": hashlib.sha256(first).hexdigest(), "size": len(first), "modality": kind}
    row["media"] |= told
    table = pa.Table.from_pylist([row], schema=schema.ITEMS).select(["id", "media"])
    assert operator()(table)["verdict"].to_pylist() == ["kept"]
    path.write_bytes(other + bytes(max(0, len(first) - len(other))))
    (found,) = operator()(table).to_pylist()
    assert (found["verdict"], found["rule"], found["phash"]) == ("failed", "media_changed", None)


def test_copies_of_a_picture_are_found_and_other_pictures_are_not(tmp_path: Path) -> None:
    picture = broken_media.scene(300, 200)
    other = picture.transpose(Image.Transpose.ROTATE_180)
    picture.save(tmp_path / "a.jpg", quality=95)
    picture.resize((150, 100)).save(tmp_path / "b.jpg", quality=60)
    picture.save(tmp_path / "c.png")
    other.save(tmp_path / "d.jpg")
    rows = [item(name, str(tmp_path / name)) for name in ("a.jpg", "b.jpg", "c.png", "d.jpg")]
    table = pa.Table.from_pylist(rows, schema=schema.ITEMS)
    table = measured(table)
    assert decided(operator().decide(table, table)) == {
        "a.jpg": "kept",
        "b.jpg": "near_duplicate",
        "c.png": "near_duplicate",
        "d.jpg": "kept",
    }


def measured(table: pa.Table) -> pa.Table:
    found = operator()(table.select(["id", "media"]))
    for field in (PHASH, COLOURS, MOMENTS):
        table = table.append_column(field, found[field.name])
    return table


@pytest.fixture
def films(tmp_path: Path) -> pa.Table:
    """A clip, a smaller copy of it, another clip, and an image of the first one's middle."""
    pictures = tiny_clips.faded(16, 1, (160, 120))
    data = {
        "a": tiny_clips.encoded(pictures),
        "b": tiny_clips.encoded(pictures, size=(80, 60), crf=28),
        "c": tiny_clips.fade(16, 2),
    }
    rows = []
    for name, content in data.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
        rows.append(item(name, str(tmp_path / f"{name}.mp4")))
        rows[-1]["media"] |= {"modality": "video", "seconds": 2.0}
    middle = frames.sample(data["a"], moments.COUNT)[moments.COUNT // 2].image
    middle.save(tmp_path / "d.png")
    rows.append(item("d", str(tmp_path / "d.png")))
    return measured(pa.Table.from_pylist(rows, schema=schema.ITEMS))


def test_copies_of_a_clip_are_found_and_no_image_is_one(films: pa.Table) -> None:
    first, _, _, image = films.to_pylist()
    assert (first["phash"], first["colours"]) == (image["phash"], image["colours"])
    assert image["moments"] is None
    found = operator().decide(films, films)
    assert decided(found) == {"a": "kept", "b": "near_duplicate", "c": "kept", "d": "kept"}
    assert "levels of colour from the kept item a (key of a)" in found["detail"].to_pylist()[1]
    rows = triplets(
        ("t1", ["a"], ["b"], "x"),
        ("t2", ["a"], ["d"], "x"),
        ("t3", ["b"], ["c"], "x"),
        ("t4", ["a"], ["c"], "x"),
        ("t5", ["d"], ["c"], "x"),
    )
    assert decided(operator().decide(rows, films)) == {
        "t1": "same_picture",
        "t2": "kept",
        "t3": "kept",
        "t4": "repeated_triplet",
        "t5": "kept",
    }
    assert decided(operator(radius=0, tolerance=0).decide(films, films))["b"] == "kept"


def test_journals_without_clips_are_read_as_before(films: pa.Table) -> None:
    images = films.slice(3).drop_columns(["moments"])
    assert decided(operator().decide(images, images)) == {"d": "kept"}


def test_the_same_picture_in_another_colour_is_another_picture(tmp_path: Path) -> None:
    def dress(name: str, colour: str, ground: str) -> None:
        picture = Image.new("RGB", (224, 224), ground)
        picture.paste(colour, (70, 30, 150, 200))
        picture.save(tmp_path / name)

    dress("a.png", "red", "white")
    dress("b.jpg", "red", "white")
    dress("c.png", "blue", "white")
    dress("d.png", "red", "#e8e8ff")
    rows = [item(name, str(tmp_path / name)) for name in ("a.png", "b.jpg", "c.png", "d.png")]
    table = measured(pa.Table.from_pylist(rows, schema=schema.ITEMS))
    assert decided(operator().decide(table, table)) == {
        "a.png": "kept",
        "b.jpg": "near_duplicate",
        "c.png": "kept",
        "d.png": "kept",
    }
    blind = decided(operator(tolerance=None).decide(table, table))
    assert [name for name, rule in blind.items() if rule == "kept"] == ["a.png"]
    made = triplets(
        ("t1", ["a.png"], ["c.png"], "in blue"),
        ("t2", ["a.png"], ["b.jpg"], "the same"),
        ("t3", ["a.png"], ["d.png"], "on lavender"),
    )
    found = operator().decide(made, table)
    assert decided(found) == {"t1": "kept", "t2": "same_picture", "t3": "kept"}
    assert set(decided(operator(tolerance=None).decide(made, table)).values()) == {"same_picture"}


def test_the_tolerance_is_counted_in_levels() -> None:
    table = items({"a": 0, "b": 1, "c": 0}, {"a": 100, "b": 116, "c": 83})
    found = operator().decide(table, table)
    assert decided(found) == {"a": "kept", "b": "near_duplicate", "c": "kept"}
    assert "1 bits and 16 levels of colour" in found["detail"].to_pylist()[1]
    assert set(decided(operator(tolerance=15).decide(table, table)).values()) == {"kept"}
    rows = triplets(("t1", ["a"], ["b"], "x"), ("t2", ["a"], ["c"], "x"))
    assert decided(operator().decide(rows, table)) == {"t1": "same_picture", "t2": "kept"}
    assert {"radius", "tolerance", "duration", "same_text"} == operator().rules


def test_the_same_text_between_other_colours_is_no_repeat() -> None:
    table = items({"a": 0, "a2": 0, "a3": 0, "z": 2**32 - 1}, {"a2": 10, "a3": 90})
    rows = triplets(
        ("t1", ["a"], ["z"], "x"), ("t2", ["a2"], ["z"], "x"), ("t3", ["a3"], ["z"], "x")
    )
    found = decided(operator().decide(rows, table))
    assert found == {"t1": "kept", "t2": "repeated_triplet", "t3": "kept"}


def test_the_detail_names_the_kept_item_and_the_distance() -> None:
    table = items({"b": 0b111, "a": 0, "c": 2**40 - 1})
    found = {row["id"]: row for row in operator(radius=3).decide(table, table).to_pylist()}
    assert found["b"]["rule"] == "near_duplicate"
    assert "3 bits" in found["b"]["detail"]
    assert "a (key of a)" in found["b"]["detail"]
    assert decided(operator(radius=2).decide(table, table)) == dict.fromkeys("bac", "kept")


def test_a_chain_is_thinned_not_swallowed() -> None:
    table = items({"a": 0b0, "b": 0b1, "c": 0b11, "d": 0b111})
    assert decided(operator(radius=1).decide(table, table)) == {
        "a": "kept",
        "b": "near_duplicate",
        "c": "kept",
        "d": "near_duplicate",
    }


@given(
    st.lists(st.tuples(st.integers(0, 2**12 - 1), st.sampled_from([0, 10, 30])), max_size=30),
    st.integers(0, 5),
    st.randoms(),
)
@settings(max_examples=60, deadline=None)
def test_no_two_kept_items_are_near_whatever_the_order_of_rows(
    values: list[tuple[int, int]], radius: int, shuffler: random.Random
) -> None:
    named = {f"{at:03}": value for at, (value, _) in enumerate(values)}
    tones = {f"{at:03}": tone for at, (_, tone) in enumerate(values)}
    table = items(named, tones)
    found = decided(operator(radius=radius).decide(table, table))
    kept = [name for name, rule in found.items() if rule == "kept"]
    for name, value in named.items():
        near = [
            one
            for one in kept
            if (named[one] ^ value).bit_count() <= radius and abs(tones[one] - tones[name]) <= 16
        ]
        assert near == [name] if name in kept else near[0] < name
    order = list(named)
    shuffler.shuffle(order)
    moved = items({name: named[name] for name in order}, tones)
    assert decided(operator(radius=radius).decide(moved, moved)) == found


def test_items_without_a_hash_fail_and_so_do_the_rows_that_use_them() -> None:
    table = items({"a": 0, "b": None, "c": 2**32 - 1})
    found = operator().decide(table, table)
    assert decided(found) == {"a": "kept", "b": "failed", "c": "kept"}
    rows = triplets(
        ("t1", ["a"], ["b"], "x"), ("t2", ["a"], ["c"], "x"), ("t3", ["gone"], ["c"], "x")
    )
    found = operator().decide(rows, table)
    assert decided(found) == {"t1": "failed", "t2": "kept", "t3": "failed"}
    assert "key of b" in found["detail"].to_pylist()[0]


def test_a_row_of_a_picture_with_itself_is_rejected() -> None:
    table = items({"a": 0, "near": 0b1111, "far": 0b11111, "other": 2**32 - 1})
    rows = triplets(
        ("t1", ["a"], ["near"], "x"),
        ("t2", ["a"], ["far"], "x"),
        ("t3", ["a"], ["a"], "x"),
        ("t4", ["other", "a"], ["far", "near"], "x"),
        ("t5", ["other"], ["far", "a"], "x"),
    )
    found = operator(radius=4).decide(rows, table)
    assert found["id"].to_pylist() == ["t1", "t2", "t3", "t4", "t5"]
    assert decided(found) == {
        "t1": "same_picture",
        "t2": "kept",
        "t3": "same_picture",
        "t4": "same_picture",
        "t5": "kept",
    }
    details = found["detail"].to_pylist()
    assert "4 bits" in details[0]
    assert "both reference and target" in details[2]
    assert "reference a and target near are 4 bits" in details[3]


def test_the_same_text_between_near_duplicates_is_kept_once() -> None:
    table = items({"a": 0, "a2": 0b1, "z": 2**32 - 1, "z2": 2**32 - 2, "m": 2**16 - 1})
    rows = triplets(
        ("t4", ["a2"], ["z2"], "make it red"),
        ("t1", ["a"], ["z"], "make it red"),
        ("t2", ["a2"], ["z2"], "make it blue"),
        ("t3", ["a"], ["m"], "make it red"),
        ("t5", ["z"], ["a"], "make it red"),
        ("t6", ["a", "m"], ["z"], "make it red"),
    )
    found = operator().decide(rows, table)
    assert decided(found) == {"t4": "repeated_triplet", **dict.fromkeys(
        ("t1", "t2", "t3", "t5", "t6"), "kept"
    )}  # fmt: skip
    assert "t1" in found["detail"].to_pylist()[0]
    assert set(decided(operator(same_text=False).decide(rows, table)).values()) == {"kept"}
    assert decided(operator(radius=0).decide(rows, table))["t4"] == "kept"


def test_a_rejected_row_does_not_count_as_the_first_of_its_kind() -> None:
    table = items({"a": 0, "b": 0b1, "z": 2**32 - 1, "lost": None})
    rows = triplets(
        ("t1", ["a"], ["z", "b"], "x"), ("t2", ["a"], ["z"], "x"), ("t3", ["b"], ["z"], "x")
    )
    found = decided(operator().decide(rows, table))
    assert found == {"t1": "same_picture", "t2": "kept", "t3": "repeated_triplet"}


def test_pairs_repeat_when_the_same_thing_changes() -> None:
    table = items({"a": 0, "a2": 0b1, "z": 2**32 - 1})

    def pair(name: str, reference: str, added: str) -> dict[str, Any]:
        change = {"field": "colour", "removed": "red", "added": added}
        return {
            "id": name,
            "references": [schema.member(item(reference))],
            "targets": [schema.member(item("z"))],
            "evidence": {"operator": "test", "reason": "", "changes": [change], "score": None},
            "provenance": [],
        }

    made = [pair("p1", "a", "blue"), pair("p2", "a2", "blue"), pair("p3", "a2", "green")]
    rows = pa.Table.from_pylist(made, schema=schema.PAIRS)
    found = decided(operator().decide(rows, table))
    assert found == {"p1": "kept", "p2": "repeated_triplet", "p3": "kept"}


def test_hashes_survive_parquet_and_chunks(tmp_path: Path) -> None:
    table = items({"a": 2**64 - 1, "b": 2**64 - 2, "c": 0})
    pq.write_table(table, tmp_path / "items.parquet")
    back = pq.read_table(tmp_path / "items.parquet")
    chunked = pa.concat_tables([back.slice(0, 1), back.slice(1)])
    assert decided(operator().decide(chunked, chunked))["b"] == "near_duplicate"
    rows = triplets(("t1", ["a"], ["c"], "x"), ("t2", ["b"], ["c"], "x"))
    rows = pa.concat_tables([rows.slice(1), rows.slice(0, 1)])
    assert decided(operator().decide(rows, chunked)) == {"t2": "repeated_triplet", "t1": "kept"}
    assert operator().decide(rows.slice(0, 0), chunked).num_rows == 0
    nothing = chunked.slice(0, 0)
    assert operator().decide(nothing, nothing).num_rows == 0


@pytest.mark.parametrize(
    "options",
    [{"radius": -1}, {"radius": 25}, {"radios": 4}, {"tolerance": 256}, {"tolerance": -1}],
)
def test_wrong_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        operator(**options)
