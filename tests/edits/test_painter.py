"""What every painting operator does with its samples, whatever paints them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from datagen import media, painted, schema, store
from datagen.edits._best import Best, KeepSettings
from datagen.edits._painter import Painter, PaintSettings
from datagen.edits._samples import Painted, Range, Sample
from datagen.errors import DatagenError
from datagen.step import Context

TOLD = {"step": "edit", "operator": "fake", "model": "m", "revision": "r"}


class FakeSettings(PaintSettings):
    guidance: Range = (1.0, 5.0)
    share: Range | None = None


class Fake(Painter[FakeSettings]):
    """Noise of the seed; what is bad about a sample hangs on its row."""

    Settings = FakeSettings
    ranges = ("guidance", "share")
    requires = ()
    room = 10**9  # samples that memory holds at once

    def __init__(self, chosen: FakeSettings) -> None:
        super().__init__(chosen)
        self.calls: list[int] = []

    def unfit(self, row: Any) -> tuple[str, str] | None:
        return ("no_caption", "none") if row["id"].startswith("unfit") else None

    def paint(self, samples: Sequence[Sample]) -> list[Painted]:
        self.calls.append(len(samples))
        if len(samples) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 3 GiB")
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> Painted:
        dice = np.random.default_rng(sample.seed)
        pixels = dice.random((12, 16, 3), dtype=np.float32)
        name = sample.row["id"]
        if name.startswith("black") or (name.startswith("dim") and sample.number == 0):
            pixels = np.zeros_like(pixels)
        if name.startswith("nan"):
            pixels[3, 3, 0] = np.nan
        return Painted(pixels, pixels[:, ::-1], unsafe=name.startswith("bad"))


def rows(*ids: str) -> pa.Table:
    def member(caption: str) -> dict[str, Any]:
        none = dict.fromkeys(field.name for field in schema.MEMBER)
        return none | {"id": f"i-{caption}", "caption": caption, "labels": "{}"}

    return pa.Table.from_pylist(
        [
            {
                "id": name,
                "references": [member("a red ball")],
                "targets": [member("a blue ball")],
                "evidence": {"operator": "mined", "reason": "near", "changes": [], "score": 0.5},
                "modification": "make it blue",
            }
            for name in ids
        ],
        schema=schema.TRIPLETS.remove(schema.TRIPLETS.get_field_index("provenance")).remove(4),
    )


def opened(folder: Path, **told: Any) -> Fake:
    operator = Fake(FakeSettings.model_validate({"format": "png", **told}))
    operator.open(Context(seed=3, staged=str(folder / "staged")))
    return operator


def lines(operator: Fake, *ids: str) -> list[dict[str, Any]]:
    return operator(rows(*ids)).to_pylist()


def hashes(found: list[dict[str, Any]]) -> dict[tuple[str, int], tuple[str, str]]:
    out = {}
    for one in found:
        if one["verdict"] == schema.KEPT:
            number = json.loads(one["edit"])["number"]
            sides = (one[side][0]["media"]["sha256"] for side in ("references", "targets"))
            out[one["id"], number] = tuple(sides)
    return out


@settings(max_examples=25)
@given(
    ids=st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=7, unique=True),
    samples=st.integers(1, 5),
    batch=st.integers(1, 7),
    cut=st.integers(0, 7),
)
def test_pictures_follow_from_the_row_alone(
    tmp_path_factory: Any, ids: list[str], samples: int, batch: int, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("painted")
    whole = hashes(lines(opened(folder, samples=samples, batch_size=batch), *ids))
    assert set(whole) == {(name, number) for name in ids for number in range(samples)}
    assert len({one for pair in whole.values() for one in pair}) == 2 * len(whole)
    other = opened(folder, samples=samples, batch_size=3)
    parts = [part for part in (ids[cut:], ids[:cut]) if part]
    again = [line for part in parts for line in lines(other, *part)]
    assert hashes(again) == whole


def test_numbers_are_drawn_from_their_ranges_evenly(tmp_path: Path) -> None:
    operator = opened(tmp_path, samples=1000, batch_size=64, share=[0.1, 0.9])
    drawn = [json.loads(line["edit"]) for line in lines(operator, "a")]
    for name, low, high in (("guidance", 1.0, 5.0), ("share", 0.1, 0.9)):
        values = np.array([one[name] for one in drawn])
        assert values.min() >= low
        assert values.max() <= high
        counts, _ = np.histogram(values, 4, (low, high))
        assert counts.min() > 180
    both = np.corrcoef([one["guidance"] for one in drawn], [one["share"] for one in drawn])
    assert abs(both[0, 1]) < 0.1
    assert len({one["seed"] for one in drawn}) == 1000
    assert all(0 <= one["seed"] < 1 << 63 for one in drawn)


def test_one_number_is_no_range(tmp_path: Path) -> None:
    line = lines(opened(tmp_path, guidance=7.5), "a")[0]
    told = json.loads(line["edit"])
    assert told["guidance"] == 7.5
    assert "share" not in told


def test_every_batch_is_filled_up(tmp_path: Path) -> None:
    operator = opened(tmp_path, samples=5, batch_size=4)
    assert len(lines(operator, "a")) == 5
    assert operator.calls == [4, 4]


def test_out_of_memory_halves_the_batch_and_changes_no_picture(tmp_path: Path) -> None:
    whole = hashes(lines(opened(tmp_path, samples=8, batch_size=8), "a"))
    operator = opened(tmp_path, samples=8, batch_size=8)
    operator.room = 3
    assert hashes(lines(operator, "a")) == whole
    assert operator.calls == [8, 4, 2, 2, 2, 2]
    # What did not fit is not tried again.
    lines(operator, "b")
    assert operator.calls[6:] == [2, 2, 2, 2]


def test_a_row_that_memory_never_holds_fails_alone(tmp_path: Path) -> None:
    operator = opened(tmp_path, samples=2, batch_size=2)
    operator.room = 0
    found = lines(operator, "a")
    assert [(one["verdict"], one["rule"]) for one in found] == [("failed", "out_of_memory")] * 2
    assert "Tried to allocate" in found[0]["detail"]


def test_other_errors_are_not_taken_for_lack_of_memory(tmp_path: Path) -> None:
    operator = opened(tmp_path)
    operator.paint = lambda samples: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        operator(rows("a"))


@pytest.mark.parametrize(
    ("name", "rule"),
    [("black", "black_picture"), ("nan", "not_finite"), ("bad", "unsafe_picture")],
)
def test_pictures_that_are_none_fail(tmp_path: Path, name: str, rule: str) -> None:
    found = lines(opened(tmp_path, samples=2), name, "fine")
    assert [one["rule"] for one in found if one["id"] == name] == [rule, rule]
    assert [one["verdict"] for one in found if one["id"] == "fine"] == ["kept", "kept"]
    assert "seed" in found[0]["detail"]


def test_a_bad_sample_beside_a_good_one_is_counted(tmp_path: Path) -> None:
    found = lines(opened(tmp_path, samples=2), "dim")
    assert [(one["verdict"], one["rule"]) for one in found] == [
        ("failed", "black_picture"),
        ("kept", None),
    ]


def test_what_cannot_be_painted_is_rejected_and_not_painted(tmp_path: Path) -> None:
    operator = opened(tmp_path)
    found = lines(operator, "unfit-1", "unfit-2")
    assert [(one["verdict"], one["rule"]) for one in found] == [("rejected", "no_caption")] * 2
    assert operator.calls == []
    assert not (tmp_path / "staged").exists()


def test_more_can_not_be_kept_than_are_painted() -> None:
    with pytest.raises(ValidationError, match=r"keep.count \(4\) is more than samples \(1\)"):
        FakeSettings.model_validate({"keep": {"model": "bundled:tinyclip"}})


def brute(scores: list[dict[str, float]], keep: KeepSettings) -> set[int]:
    """The samples that are kept, said in another way."""
    fine = [n for n, s in enumerate(scores) if all(s[k] >= v for k, v in keep.least.items())]
    return {
        n
        for n in fine
        if sum((scores[m][keep.by], -m) > (scores[n][keep.by], -n) for m in fine) < keep.count
    }


@given(
    values=st.lists(st.tuples(*[st.sampled_from([-0.5, 0.1, 0.2, 0.3, 0.7, 0.9])] * 4), max_size=9),
    count=st.integers(1, 4),
    by=st.sampled_from(["directional", "target", "reference", "similarity"]),
)
def test_the_best_of_those_above_thresholds_are_kept(
    values: list[tuple[float, ...]], count: int, by: Any
) -> None:
    names = ("directional", "target", "reference", "similarity")
    scores: Any = [dict(zip(names, one, strict=True)) for one in values]
    keep = KeepSettings(model="bundled:tinyclip", count=count, by=by)
    found = Best(keep).chosen(scores)
    assert {n for n, fault in enumerate(found) if fault is None} == brute(scores, keep)
    for one, fault in zip(scores, found, strict=True):
        if fault and fault[0] != "not_best":
            name = fault[0].removeprefix("low_")
            assert one[name] < keep.least[name]


def test_scores_are_cosines_of_the_model(tiny_clip: str) -> None:
    from datagen import clip, models

    dice = np.random.default_rng(0)
    pictures = [
        Image.fromarray(dice.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(4)
    ]
    before, after = pictures[:2], pictures[2:]
    captions = [("a cat", "a dog"), ("a cat", "a cat")]
    best = Best(KeepSettings(model=tiny_clip, device="cpu", precision="fp32"))
    best.open()
    found = best.scores(before, after, captions)
    model = clip.load(models.parse(tiny_clip), device="cpu", precision="fp32")
    geometry = clip.config(models.parse(tiny_clip)).geometry
    seen = model.images(np.stack([geometry.fit(one) for one in pictures])).astype(float)
    told = model.texts(["a cat", "a dog"]).astype(float)

    def cosine(a: Any, b: Any) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    first = found[0]
    assert first["similarity"] == pytest.approx(cosine(seen[0], seen[2]), abs=2e-5)
    assert first["reference"] == pytest.approx(cosine(seen[0], told[0]), abs=2e-5)
    assert first["target"] == pytest.approx(cosine(seen[2], told[1]), abs=2e-5)
    step = cosine(seen[2] - seen[0], told[1] - told[0])
    assert first["directional"] == pytest.approx(step, abs=2e-5)
    assert found[1]["directional"] == 0


# ------------------------------------------------------------------ shards of pictures


def journalled(folder: Path, *ids: str, batches: int = 1, **told: Any) -> pa.Table:
    """Answers as a journal gives them: sorted by unit, staged in several files."""
    operator = opened(folder, **told)
    tables = [operator(rows(*ids[at::batches])) for at in range(batches) if ids[at::batches]]
    table = pa.concat_tables(tables).rename_columns(
        ["unit" if name == "id" else name for name in tables[0].column_names]
    )
    return table.take(pa.compute.sort_indices(table, [("unit", "ascending")]))


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def settle(folder: Path, table: pa.Table, name: str = "media/edit") -> pa.Table:
    return painted.settled(table, str(folder / "staged"), str(folder / name), TOLD)


def test_shards_do_not_show_how_rows_were_batched(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(painted, "SHARD_PICTURES", 5)
    ids = [f"row-{number}" for number in range(9)]
    for name, batches in (("one", 1), ("four", 4)):
        settle(tmp_path / name, journalled(tmp_path / name, *ids, batches=batches, samples=2))
    found = bytes_of(tmp_path / "one/media/edit")
    assert found == bytes_of(tmp_path / "four/media/edit")
    assert len(found) == 1 + 8  # 36 pictures
    assert not (tmp_path / "one/staged").exists()


def test_pictures_read_back_by_reference_and_from_the_tars(tmp_path: Path) -> None:
    before = journalled(tmp_path, "b", "a", samples=2, format="webp", quality=100)
    after = settle(tmp_path, before)
    folder = tmp_path / "media/edit"
    count = 0
    for old, new in zip(before.to_pylist(), after.to_pylist(), strict=True):
        for side in ("references", "targets"):
            (was,), (now,) = old[side], new[side]
            media = now["media"]
            assert media["path"].startswith(str(folder))
            data = store.read_bytes(media["path"], media["offset"], media["size"])
            assert hashlib.sha256(data).hexdigest() == media["sha256"] == was["media"]["sha256"]
            assert Image.open(io.BytesIO(data)).size == (media["width"], media["height"])
            same = ("caption", "id", "key", "source", "labels")
            assert {n: was[n] for n in same} == {n: now[n] for n in same}
            count += 1
    with tarfile.open(folder / "000000.tar") as tar:
        members = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    assert list(members)[:2] == ["a-0000-reference.webp", "a-0000-reference.json"]
    assert len(members) == 2 * count == 16
    told = json.loads(members["a-0001-target.json"])
    assert told["painted"] == TOLD
    assert told["row"] == "a"
    assert told["edit"]["number"] == 1
    assert told["sha256"] == hashlib.sha256(members["a-0001-target.webp"]).hexdigest()


def test_what_stands_in_shards_is_not_packed_again(tmp_path: Path) -> None:
    settle(tmp_path, journalled(tmp_path, "a", "c"))
    first = bytes_of(tmp_path / "media/edit")
    # The same rows, decided anew: nothing is staged any more.
    table = journalled(tmp_path, "a", "c")
    store.remove(str(tmp_path / "staged"))
    again = settle(tmp_path, table)
    assert bytes_of(tmp_path / "media/edit") == first
    # A row more: its pictures alone come in a further shard.
    grown = settle(tmp_path, journalled(tmp_path, "a", "b", "c"))
    found = bytes_of(tmp_path / "media/edit")
    assert found["000000.tar"] == first["000000.tar"]
    assert "000001.tar" in found
    assert set(again["unit"].to_pylist()) < set(grown["unit"].to_pylist())
    index = store.read_table(str(tmp_path / "media/edit/index.parquet"))
    assert sorted(index["unit"].to_pylist()) == ["a", "a", "b", "b", "c", "c"]


def test_a_picture_that_is_gone_is_one_line(tmp_path: Path) -> None:
    table = journalled(tmp_path, "a")
    store.remove(str(tmp_path / "staged"))
    with pytest.raises(DatagenError, match=r"picture of row a cannot be read .*paint anew"):
        settle(tmp_path, table)


def test_a_shard_that_is_gone_is_packed_anew_once_its_rows_are_painted_again(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(painted, "SHARD_PICTURES", 3)
    ids, folder = ("a", "b", "c", "d"), tmp_path / "media/edit"
    settle(tmp_path, journalled(tmp_path, *ids))
    first = bytes_of(folder)
    assert painted.intact(str(folder))
    # The last shard stays, so what was in another one is packed under a number of its own.
    for name, left in (("000001.tar", 0), ("000003.tar", 2000)):
        if left:
            os.truncate(folder / name, left)
        else:
            (folder / name).unlink()
        assert not painted.intact(str(folder))
        table = journalled(tmp_path, *ids)
        store.remove(str(tmp_path / "staged"))
        with pytest.raises(DatagenError, match=r"no shard under media/ has it; remove .* and run"):
            settle(tmp_path, table)
        again = settle(tmp_path, journalled(tmp_path, *ids))
        assert painted.intact(str(folder))
        for row in again.to_pylist():
            for side in ("references", "targets"):
                assert media.read(row[side][0]["media"])
        assert bytes_of(folder)["000002.tar"] == first["000002.tar"]
    assert not painted.intact(str(tmp_path / "media/none"))


def test_a_picture_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    table = journalled(tmp_path, "a")
    (file,) = (tmp_path / "staged").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 4] ^= 1
    file.write_bytes(data)
    with pytest.raises(DatagenError, match="other bytes than were painted"):
        settle(tmp_path, table)


def test_members_that_are_not_new_and_empty_answers_stay_as_they_are(tmp_path: Path) -> None:
    table = journalled(tmp_path, "unfit-a", "a").slice(0, 2)
    old = rows("a")["references"].to_pylist()
    members = pa.array([old[0] if unit == "a" else None for unit in table["unit"].to_pylist()],
                       schema.PAIRS.field("references").type)  # fmt: skip
    table = table.set_column(table.column_names.index("references"), "references", members)
    found = settle(tmp_path, table)
    assert found["references"].to_pylist() == members.to_pylist()
    assert found["targets"].to_pylist()[0][0]["media"]["path"].endswith("000000.tar")
    empty = settle(tmp_path, table.slice(0, 0), "media/none")
    assert empty.num_rows == 0


def test_the_model_that_chooses_is_part_of_the_revision(tiny_clip: str) -> None:
    told: dict[str, Any] = {"samples": 4, "keep": {"model": tiny_clip}}
    assert Fake(FakeSettings.model_validate({"samples": 4})).revision() == ""
    assert Fake(FakeSettings.model_validate(told)).revision().startswith("sha256:")
