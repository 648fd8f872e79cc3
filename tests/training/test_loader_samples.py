"""What samples are made of: texts, targets, negatives, queries of one kind, clips, vectors."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny_clips
import tiny_shards
from PIL import Image
from tiny_shards import GEOMETRY, Items, chain, spoil, triplet

pytest.importorskip("torch", reason="needs datagen[models]")

import torch

from datagen import frames
from datagen.errors import DatagenError
from datagen.training.batch import moved, padded
from datagen.training.loader import Augmentation, Loader, LoaderSettings, Source
from datagen.training.making import _caption
from datagen.training.others import Gallery, Others
from datagen.training.samples import CAPTION, COMPOSED, IMAGE_ONLY, TEXT_ONLY, number_of


@pytest.fixture
def items(tmp_path):
    return Items(tmp_path / "items")


def load(source, **settings):
    chosen = {"batch_size": 8, "workers": 0, "drop_last": False, "chunk": 4, **settings}
    return Loader(source, GEOMETRY, LoaderSettings(**chosen), rank=0, ranks=1)


def epoch(loader):
    """Every sample of an epoch as a dictionary of its own, its numbers of media as items."""
    out = []
    for batch in loader.batches():
        for at, key in enumerate(batch["keys"]):
            ids = {
                role: [int(batch["items"][n]) for n in batch[role][at] if n >= 0]
                for role in ("references", "targets", "negatives")
            }
            told = {name: batch[name][at] for name in ("texts", "captions", "pairs", "places")}
            kind, run = int(batch["kinds"][at]), batch["names"][int(batch["runs"][at])]
            right = [int(one) for one in batch["target_ids"][at] if one]
            out.append({"key": key, "kind": kind, "run": run, "right": right, **ids, **told})
    return out


def ids(members):
    return [number_of(one["id"]) for one in members]


def test_pairs_come_once_an_epoch_and_every_text_in_as_many_epochs(items, tmp_path):
    rows = chain(items, 10, texts=3, negatives=0) + chain(items, 4, negatives=0, first=50)
    run = tiny_shards.write(tmp_path / "run", rows)
    loader = load(run, iterate="pair")
    texts = defaultdict(Counter)
    for _ in range(6):
        seen = epoch(loader)
        assert Counter(one["pairs"] for one in seen) == Counter({row["pair"] for row in rows})
        for one in seen:
            texts[one["pairs"]][one["texts"]] += 1
    for row in rows:
        own = {other["modification"] for other in rows if other["pair"] == row["pair"]}
        assert texts[row["pair"]] == Counter(dict.fromkeys(own, 6 // len(own)))
    every = load(run)
    assert Counter(one["key"] for one in epoch(every)) == Counter(row["id"] for row in rows)


def test_a_pair_turned_around_is_a_row_of_its_own(items, tmp_path):
    left, right = items(1), items(2)
    rows = [triplet([left], [right], "there"), triplet([right], [left], "and back")]
    seen = epoch(load(tiny_shards.write(tmp_path / "run", rows), iterate="pair"))
    found = {one["texts"]: (one["references"], one["right"]) for one in seen}
    assert found == {
        "there": (ids([left]), ids([right])), "and back": (ids([right]), ids([left])),
    }  # fmt: skip


def test_unique_targets_come_once_an_epoch(items, tmp_path):
    """Two references lead to 5, a list of targets leads to 5 and 6."""
    one, two, three, five, six = (items(n) for n in (1, 2, 3, 5, 6))
    rows = [
        triplet([one], [five], "a"), triplet([two], [five], "b"),
        triplet([three], [five, six], "c"), triplet([five], [one], "d"),
    ]  # fmt: skip
    loader = load(tiny_shards.write(tmp_path / "run", rows), iterate="target")
    leading = defaultdict(set)
    for _ in range(6):
        seen = epoch(loader)
        assert Counter(one["right"][0] for one in seen) == Counter(ids([one, five, six]))
        for sample in seen:
            assert sample["targets"] == sample["right"]
            leading[sample["right"][0]].add(sample["texts"])
    assert leading == {
        number_of(five["id"]): {"a", "b", "c"}, number_of(six["id"]): {"c"},
        number_of(one["id"]): {"d"},
    }  # fmt: skip


def test_lists_of_targets_are_drawn_from_or_padded_whole(items, tmp_path):
    rows = [
        triplet([items(0)], [items(n) for n in range(first, first + many)], str(first))
        for first, many in ((10, 1), (20, 3), (30, 6))
    ]
    run = tiny_shards.write(tmp_path / "run", rows)
    loader, drawn = load(run), defaultdict(set)
    for _ in range(40):
        for one in epoch(loader):
            assert one["targets"] == one["right"]
            drawn[one["key"]].update(one["right"])
    assert drawn == {row["id"]: set(ids(row["targets"])) for row in rows}
    batch = next(load(run, targets="all", most_targets=4).batches())
    pictures, mask = padded(batch, "targets")
    assert batch["targets"].shape == batch["target_ids"].shape == (3, 4)
    by_key = dict(zip(batch["keys"], range(3), strict=True))
    for row, many in zip(rows, (1, 3, 4), strict=True):
        at = by_key[row["id"]]
        assert mask[at, :, 0].tolist() == [True] * many + [False] * (4 - many)
        assert (batch["targets"][at] >= 0).tolist() == mask[at, :, 0].tolist()
        assert (batch["target_ids"][at] != 0).tolist() == mask[at, :, 0].tolist()
        assert not pictures[at, many:].any()
        known = {number_of(one["id"]): one["id"] for one in row["targets"]}
        for number in range(many):
            data = items.bytes[known[int(batch["target_ids"][at, number])]]
            wanted = GEOMETRY.fit(Image.open(io.BytesIO(data)))
            assert (pictures[at, number, 0].numpy() == wanted).all()


def test_negatives_are_drawn_and_the_reference_stays_among_them(items, tmp_path):
    reference, target, others = items(0), items(1), [items(n) for n in range(2, 8)]
    rows = [triplet([reference], [target], "x", [others[0], reference, *others[1:]])]
    run = tiny_shards.write(tmp_path / "run", rows)
    loader, drawn = load(run, negatives=3), set()
    for _ in range(40):
        (one,) = epoch(loader)
        assert one["negatives"][0] == number_of(reference["id"])
        assert len(set(one["negatives"])) == 3
        drawn.update(one["negatives"])
    assert drawn == set(ids([reference, *others]))
    (first,) = epoch(load(run, negatives=3, draw_negatives=False))
    assert first["negatives"] == ids([others[0], reference, others[1]])
    (every,) = epoch(load(run, negatives=20))
    assert sorted(every["negatives"]) == sorted(ids([reference, *others]))


def test_a_right_answer_is_never_a_negative(items, tmp_path):
    rows = [triplet([items(0)], [items(1), items(2)], "x", [items(2), items(3)])]
    (one,) = epoch(load(tiny_shards.write(tmp_path / "run", rows), negatives=2))
    assert one["negatives"] == ids([items(3)])


def test_shards_without_negatives_cannot_give_any(items, tmp_path):
    run = tiny_shards.write(tmp_path / "run", chain(items, 3), include_negatives=False)
    with pytest.raises(DatagenError, match="these shards hold none"):
        load(run, negatives=1)


def test_queries_of_one_kind_are_mixed_in_at_their_rates(items, tmp_path):
    rows = chain(items, 60)
    by_key = {row["id"]: row for row in rows}
    run = tiny_shards.write(tmp_path / "run", rows)
    loader = load(run, image_only=0.1, text_only=0.2, captions=0.3, negatives=1)
    counts, epochs = Counter(), 5
    for _ in range(epochs):
        seen = epoch(loader)
        assert sorted(one["key"] for one in seen) == sorted(by_key)
        for one in seen:
            row = by_key[one["key"]]
            counts[one["kind"]] += 1
            pictured = one["kind"] in (COMPOSED, IMAGE_ONLY)
            assert one["references"] == (ids(row["references"]) if pictured else [])
            assert one["targets"] == one["right"] == ids(row["targets"])
            assert len(one["negatives"]) == (one["kind"] == COMPOSED)
            assert one["texts"] == {
                IMAGE_ONLY: None, CAPTION: row["targets"][0]["caption"],
            }.get(one["kind"], row["modification"])  # fmt: skip
    total = 60 * epochs
    for kind, rate in ((IMAGE_ONLY, 0.1), (TEXT_ONLY, 0.2), (CAPTION, 0.3), (COMPOSED, 0.4)):
        # Within five standard deviations.
        assert abs(counts[kind] - rate * total) < 5 * np.sqrt(total * rate * (1 - rate))


def test_runs_are_mixed_by_weight_in_every_batch(items, tmp_path):
    pseudo = tiny_shards.write(tmp_path / "pseudo", chain(items, 30))
    real = tiny_shards.write(tmp_path / "real", chain(items, 7, first=60))
    sources = [Source(pseudo, 3.0, "pseudo"), Source(real, 1.0, "real")]
    loader = load(sources, samples=40)
    seen = []
    for _ in range(7):
        batch_counts = []
        for batch in loader.batches():
            assert batch["names"] == ("pseudo", "real")
            batch_counts.append(int(batch["runs"].sum()))
            seen += [
                (loader.names[run], key)
                for run, key in zip(batch["runs"].tolist(), batch["keys"], strict=True)
            ]
        assert sum(batch_counts) == 10
        assert all(abs(count - 2) <= 1 for count in batch_counts)
    for name, size, total in (("pseudo", 30, 210), ("real", 7, 70)):
        counts = Counter(key for run, key in seen if run == name)
        assert set(counts.values()) == {total // size}
    without = Counter(one["run"] for one in epoch(load([pseudo, real])))
    assert without == {pseudo: 30, real: 7}


def test_clips_are_frames_at_even_distances(items, tmp_path):
    data = tiny_clips.encoded(tiny_clips.faded(12))
    clip = items(1, data, modality="video", format="mp4", seconds=1.5, frames=12,
                 width=96, height=72)  # fmt: skip
    rows = [triplet([clip], [items(2)], "freeze"), triplet([items(2)], [clip], "move")]
    run = tiny_shards.write(tmp_path / "run", rows)
    batch = next(load(run, frames=5, shuffle=False).batches())
    at = batch["texts"].index("freeze")
    wanted = np.stack([GEOMETRY.fit(one.image) for one in frames.sample(data, 5)])
    pictures, mask = padded(batch, "references")
    assert (pictures[at, 0].numpy() == wanted).all()
    assert mask[at].tolist() == [[True] * 5]
    assert mask[1 - at].tolist() == [[True] + [False] * 4]
    assert sorted(batch["counts"].tolist()) == [1, 5]
    changed = Augmentation(scale=(1, 1), ratio=(4 / 3, 4 / 3), frame_jitter=True)
    loader = load(run, frames=5, augmentation=changed)
    seen = [padded(*loader.batches(), "references")[0] for _ in range(2)]
    assert not torch.equal(*seen)


def test_vectors_stand_for_targets(items, tmp_path):
    vectors = np.eye(2, 4, dtype=np.float32)
    rows = [triplet([items(n)], [{**items(9 + n), "media": None}], str(n)) for n in range(2)]
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    table = pa.Table.from_pylist(rows, schema=tiny_shards.TRIPLETS)
    run = tiny_shards.write(tmp_path / "run", table.append_column("target_vector", column))
    batch = next(load(run).batches())
    assert batch["has_vector"].tolist() == [True, True]
    assert batch["targets"].shape == (2, 0)
    for at, text in enumerate(batch["texts"]):
        assert (batch["target_vectors"][at].numpy() == vectors[int(text)]).all()
        assert batch["target_ids"][at].tolist() == ids(rows[int(text)]["targets"])


def test_vectors_of_two_models_do_not_go_into_one_batch(items, tmp_path):
    runs = []
    for width in (4, 6):
        rows = [triplet([items(width)], [{**items(9 + width), "media": None}], "t")]
        column = pa.FixedSizeListArray.from_arrays(pa.array([1.0] * width, pa.float32()), width)
        table = pa.Table.from_pylist(rows, schema=tiny_shards.TRIPLETS)
        table = table.append_column("target_vector", column)
        runs.append(tiny_shards.write(tmp_path / str(width), table))
    for chunk in (1, 2):
        with pytest.raises(DatagenError, match="target vectors of 4 and 6 numbers in one batch"):
            next(load(runs, chunk=chunk).batches())


def test_halves_of_characters_are_no_text():
    about = json.loads('{"targets": [{"caption": "a \\ud800 dog"}]}')
    assert _caption(about, "targets", 0) == "a ? dog"


def test_broken_media_are_left_out_counted_and_named(items, tmp_path):
    """Item 5 is the target of one triplet, the reference of another, a negative of two."""
    rows = chain(items, 12, negatives=3)
    run = tiny_shards.write(tmp_path / "run", rows)
    broken = items(5)
    spoil(run, items.bytes[broken["id"]])
    lost = {rows[4]["id"], rows[5]["id"]}
    loader = load(run, negatives=3, augmentation=Augmentation())
    seen = epoch(loader)
    assert sorted(one["key"] for one in seen) == sorted(row["id"] for row in rows[:4] + rows[6:])
    fewer = {row["id"] for row in rows[2:4]}
    assert {one["key"] for one in seen if len(one["negatives"]) == 2} == fewer
    assert {(fault.key, fault.member, fault.lost) for fault in loader.faults} == {
        (rows[4]["id"], "target.0", True), (rows[5]["id"], "reference.0", True),
        (rows[3]["id"], "negative.1", False), (rows[2]["id"], "negative.2", False),
    }  # fmt: skip
    assert sum(loader.counts.values()) == 4
    assert {fault.run for fault in loader.faults} == {run}
    replaced = load(run, replace=True, batch_size=6)
    for _ in range(3):
        sizes = [len(batch["keys"]) for batch in replaced.batches()]
        assert sizes == [6, 6]
    assert {fault.key for fault in replaced.faults} == lost
    again, other = load(run, replace=True), load(run, replace=True, workers=1, start="fork")
    assert epoch(again) == epoch(other)
    other.close()


def test_a_broken_negative_is_named_by_the_triplet_that_holds_it(items, tmp_path):
    """Of two runs; the last target of the second is the negative of all triplets."""
    first = tiny_shards.write(tmp_path / "first", chain(items, 3, negatives=0))
    rows = chain(items, 3, negatives=0, first=20)
    second = tiny_shards.write(tmp_path / "second", rows)
    spoil(second, items.bytes[items(23)["id"]])
    loader = load([first, second])
    gallery = Gallery.of(loader.runs)
    other = gallery.at(np.asarray(ids([items(23)])))[0]
    loader.others = Others(gallery, np.full((6, 1), other, np.int32), 1)
    assert len(epoch(loader)) == 5
    key = rows[2]["id"]
    assert Counter((one.run, one.key, one.member, one.lost) for one in loader.faults) == {
        (second, key, "target.0", False): 5, (second, key, "target.0", True): 1,
    }  # fmt: skip


def test_a_batch_of_nothing_but_broken_samples_is_passed_over(items, tmp_path):
    rows = chain(items, 6, negatives=0)
    run = tiny_shards.write(tmp_path / "run", rows)
    spoil(run, items.bytes[items(3)["id"]])
    batches = list(load(run, batch_size=1).batches())
    assert len(batches) == 4
    assert {len(batch["keys"]) for batch in batches} == {1}


def test_ranks_do_not_wait_for_samples_that_never_come(items, tmp_path):
    rows = chain(items, 12, negatives=0)
    run = tiny_shards.write(tmp_path / "run", rows)
    spoil(run, items.bytes[items(5)["id"]])
    chosen = LoaderSettings(batch_size=6, workers=0, chunk=2)
    for rank in range(2):  # two broken ones are replaced
        loader = Loader(run, GEOMETRY, chosen, rank=rank, ranks=2)
        assert [len(batch["keys"]) for batch in loader.batches()] == [6]
    for number in range(13):
        spoil(run, items.bytes[items(number)["id"]])
    with pytest.raises(DatagenError, match="6 of 6 samples of a batch are broken"):
        next(Loader(run, GEOMETRY, chosen, rank=0, ranks=2).batches())


def test_chunks_of_unlike_samples_are_padded_alike(items, tmp_path):
    """Samples with one target, with three, and with a vector in place of one."""
    rows = [triplet([items(n)], [items(20 + n)], str(n)) for n in range(2)]
    rows += [triplet([items(n)], [items(30 + 3 * n + k) for k in range(3)], str(n)) for n in (2, 3)]
    rows += [triplet([items(4)], [{**items(5), "media": None}], "4")]
    vectors = pa.array([None] * 4 + [[1.0, 0.0, 0.0]], pa.list_(pa.float32(), 3))
    table = pa.Table.from_pylist(rows, schema=tiny_shards.TRIPLETS)
    run = tiny_shards.write(tmp_path / "run", table.append_column("target_vector", vectors))
    small, large = (
        next(load(run, targets="all", chunk=chunk, pin=True).batches()) for chunk in (1, 8)
    )
    assert set(small) == set(large)
    for name in ("targets", "target_ids", "target_vectors", "has_vector", "counts"):
        assert small[name].shape == large[name].shape
        assert small[name].dtype == large[name].dtype
    for name in ("target_ids", "target_vectors", "has_vector"):
        assert torch.equal(small[name], large[name])
    for role in ("references", "targets", "negatives"):
        for left, right in zip(padded(small, role), padded(large, role), strict=True):
            assert torch.equal(left, right)
    assert small["has_vector"].sum() == 1
    on = moved(small, "cpu")
    assert on["keys"] == small["keys"]
    assert torch.equal(on["pixels"], small["pixels"])


def test_one_broken_target_of_several_is_left_out_alone(items, tmp_path):
    rows = [triplet([items(0)], [items(1), items(2)], "x")]
    run = tiny_shards.write(tmp_path / "run", rows)
    spoil(run, items.bytes[items(1)["id"]])
    loader = load(run, targets="all")
    (one,) = epoch(loader)
    assert one["right"] == one["targets"] == ids([items(2)])
    assert [(fault.member, fault.lost) for fault in loader.faults] == [("target.0", False)]


@pytest.mark.parametrize(
    ("verify", "said"), [("hash", r"other bytes than manifest\.json tells"), ("size", None)]
)
def test_a_shard_that_is_not_as_its_manifest_tells_is_said(items, tmp_path, verify, said):
    run = tiny_shards.write(tmp_path / "run", chain(items, 9), max_count=5)
    spoil(run, items.bytes[items(1)["id"]], manifest=False)
    if said is None:
        assert not load(run, verify=verify).notes
        return
    with pytest.raises(DatagenError, match=said):
        load(run, verify=verify)
    for mismatch, told, count in (("skip", "left out", {4, 5}), ("use", "used all the same", {9})):
        loader = load(run, verify=verify, mismatch=mismatch)
        assert len(loader.plan) in count
        (note,) = loader.notes
        assert said.replace("\\", "")[:20] in note
        assert note.endswith(told)


def test_a_shard_that_ends_early_or_is_gone_is_said(items, tmp_path):
    run = tiny_shards.write(tmp_path / "run", chain(items, 9), max_count=5)
    first, second = (Path(f"{run}/shards/train-00000{n}.tar") for n in range(2))
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatagenError, match=r"ends without an end mark"):
        load(run, verify="size")
    left = load(run, mismatch="skip")
    assert len(left.plan) == 4
    assert len(left.notes) == 1
    first.write_bytes(whole)
    second.unlink()
    with pytest.raises(DatagenError, match=r"train-000001\.tar: missing"):
        load(run)


def test_a_shard_that_goes_while_it_is_read_ends_in_one_line(items, tmp_path):
    run = tiny_shards.write(tmp_path / "run", chain(items, 9))
    loader = load(run)
    Path(f"{run}/shards/train-000000.tar").unlink()
    with pytest.raises(DatagenError, match=r"train-000000\.tar: No such file"):
        next(loader.batches())
