"""The loader against what the shards hold: every sample once, known pixels, known order."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter

import numpy as np
import pytest
import tiny_shards
from PIL import Image
from tiny_shards import GEOMETRY, Items, chain

pytest.importorskip("torch", reason="needs datagen[models]")

import torch

from datagen import models, store
from datagen.errors import DatagenError
from datagen.shards._read import read_shard
from datagen.training import samples
from datagen.training.batch import normalised, padded
from datagen.training.loader import Augmentation, Loader, LoaderSettings, Source

COUNT = 41


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return Items(tmp_path_factory.mktemp("items"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, items):
    """41 triplets in 5 shards, of which two hold a triplet each pair's texts."""
    return tiny_shards.write(tmp_path_factory.mktemp("run"), chain(items, COUNT), max_count=9)


@pytest.fixture(scope="module")
def truth(run):
    """The triplets of the run by key, as the shards' own reader gives them."""
    shards = store.read_json(f"{run}/shards/manifest.json")["shards"]
    found = [row for one in shards for row in read_shard(f"{run}/shards/{one['name']}")]
    return {row["key"]: row for row in found}


def load(source, geometry=GEOMETRY, rank=0, ranks=1, **settings):
    chosen = {"batch_size": 8, "chunk": 4, "workers": 0, "drop_last": False, **settings}
    return Loader(source, geometry, LoaderSettings(**chosen), rank=rank, ranks=ranks)


def keys(loader):
    return [key for batch in loader.batches() for key in batch["keys"]]


def same(left, right) -> bool:
    """Whether two batches are equal in every byte."""
    if set(left) != set(right):
        return False
    return all(
        torch.equal(left[name], right[name]) if torch.is_tensor(left[name])
        else left[name] == right[name]
        for name in left
    )  # fmt: skip


def all_same(left, right) -> bool:
    pairs = list(itertools.zip_longest(left, right))
    return bool(pairs) and all(one and other and same(one, other) for one, other in pairs)


def fit(data: bytes) -> np.ndarray:
    return GEOMETRY.fit(Image.open(io.BytesIO(data)).convert("RGB"))


def test_batches_hold_what_the_shards_hold(run, truth):
    loader, seen = load(run, negatives=2, keep=("split", "scores")), []
    for batch in loader.batches():
        shown = {role: padded(batch, role)[0] for role in ("references", "targets", "negatives")}
        for number, key in enumerate(batch["keys"]):
            row = truth[key]
            for role in ("references", "targets", "negatives"):
                for at, data in enumerate(row[role]):
                    assert (shown[role][number, at, 0].numpy() == fit(data)).all()
            assert batch["texts"][number] == row["modification"]
            assert batch["captions"][number] == row["json"]["targets"][0]["caption"]
            assert batch["pairs"][number] == row["json"]["pair"]
            assert batch["json"][number] == {"split": "train", "scores": {"clip": 0.5}}
            (target,) = row["json"]["targets"]
            assert batch["target_ids"][number].tolist() == [samples.number_of(target["id"])]
            # The reference is decoded once, also as the first negative.
            assert batch["negatives"][number, 0] == batch["references"][number, 0]
        assert (batch["runs"] == 0).all()
        assert batch["names"] == (run,)
        assert (batch["kinds"] == samples.COMPOSED).all()
        seen += batch["keys"]
    assert sorted(seen) == sorted(truth)
    assert not loader.faults
    assert not loader.notes


def test_normalised_pixels_are_those_of_open_clip(run):
    models.prepare()
    transforms = pytest.importorskip("torchvision.transforms")
    batch = next(load(run).batches())
    plain = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(GEOMETRY.mean, GEOMETRY.std)]
    )
    wanted = torch.stack([plain(Image.fromarray(one.numpy())) for one in batch["pixels"]])
    assert torch.equal(normalised(batch["pixels"], GEOMETRY), wanted)


@pytest.mark.parametrize("settings", [{}, {"negatives": 1, "augmentation": Augmentation()}])
def test_batches_are_the_same_whatever_the_number_of_workers(run, settings):
    alone = load(run, seed=3, **settings)
    two = load(run, seed=3, workers=2, start="fork", **settings)
    for _ in range(2):
        assert all_same(alone.batches(), two.batches())
    two.close()


def test_workers_may_be_started_afresh(run):
    """What they are given pickles."""
    alone = load(run, batch_size=20)
    fresh = load(run, batch_size=20, workers=1, start="spawn")
    assert all_same(alone.batches(), fresh.batches())
    fresh.close()


def test_chunks_change_no_sample(run):
    """Only which media are there once: several samples of a chunk share them."""
    small, large = list(load(run, chunk=1).batches()), list(load(run, chunk=8).batches())
    media_of = [sum(len(one["counts"]) for one in each) for each in (small, large)]
    assert media_of[0] > media_of[1]
    for one, other in zip(small, large, strict=True):
        for role in ("references", "targets"):
            for left, right in zip(padded(one, role), padded(other, role), strict=True):
                assert torch.equal(left, right)
        assert one["texts"] == other["texts"]


def test_an_epoch_left_early_does_not_spoil_the_next(run):
    loader = load(run, workers=1, start="fork")
    whole = keys(load(run))
    first = next(loader.batches())
    assert first["keys"] == whole[:8]
    assert keys(loader) == whole[8:]  # goes on behind what was handed out
    assert sorted(keys(loader)) == sorted(whole)
    loader.close()


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 50])
def test_every_sample_comes_exactly_once_over_all_ranks(run, truth, ranks):
    """Also with more ranks than shards, and more than samples fill."""
    every = Counter()
    for rank in range(ranks):
        try:
            every.update(keys(load(run, rank=rank, ranks=ranks, batch_size=4)))
        except DatagenError:  # of 50 ranks the last ones have nothing
            assert rank >= COUNT
    assert every == Counter(list(truth))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_drop_last_leaves_out_less_than_a_batch_of_all_ranks(run, truth, ranks):
    loaders = [
        load(run, rank=rank, ranks=ranks, batch_size=4, drop_last=True) for rank in range(ranks)
    ]
    batches = [list(loader.batches()) for loader in loaders]
    assert {len(one) for one in batches} == {COUNT // (4 * ranks)} == {len(one) for one in loaders}
    assert {len(batch["keys"]) for one in batches for batch in one} == {4}
    every = Counter(key for one in batches for batch in one for key in batch["keys"])
    assert set(every.values()) == {1}
    assert set(every) <= set(truth)
    # The ranks' batches, side by side, are those of one rank with a larger batch.
    joined = [[k for one in step for k in one["keys"]] for step in zip(*batches, strict=True)]
    alone = load(run, batch_size=4 * ranks, drop_last=True)
    assert joined == [batch["keys"] for batch in alone.batches()]


def test_the_order_changes_with_seed_and_epoch_and_with_nothing_else(run, truth):
    loader = load(run)
    first, second = keys(loader), keys(loader)
    assert first != second
    assert sorted(first) == sorted(second) == sorted(truth)
    assert first == keys(load(run, batch_size=5, workers=0, negatives=2))
    assert first != keys(load(run, seed=1))
    plain = load(run, shuffle=False)
    assert keys(plain) == keys(plain) == list(truth)


def test_a_window_mixes_so_many_shards_and_no_others(run, truth):
    shard_of = {}
    for number, key in enumerate(truth):
        shard_of[key] = number // 9
    found = [shard_of[key] for key in keys(load(run, window=2))]
    groups = [set(found[:18]), set(found[18:36]), set(found[36:])]
    assert sum(len(group) for group in groups) <= 7  # five shards, two cut where the sizes differ
    switches = sum(one != other for one, other in itertools.pairwise(found))
    assert switches > 6
    alone = [shard_of[key] for key in keys(load(run, window=1))]
    assert sum(one != other for one, other in itertools.pairwise(alone)) == 4


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("done", [1, 2])
def test_a_stopped_epoch_goes_on_with_exactly_the_batches_that_follow(run, done, ranks):
    settings = {"batch_size": 6, "rank": ranks - 1, "ranks": ranks, "negatives": 2, "seed": 5,
                "augmentation": Augmentation(), "text_only": 0.2}  # fmt: skip
    loader = load(run, **settings)
    list(loader.batches())  # the first epoch
    steps = loader.batches()
    for _ in range(done):
        next(steps)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = [*steps, *loader.batches()]
    again = load(run, **settings)
    again.load_state_dict(state)
    assert all_same(rest, [*again.batches(), *again.batches()])
    with_workers = load(run, workers=1, start="fork", **settings)
    with_workers.load_state_dict(state)
    assert all_same(rest, [*with_workers.batches(), *with_workers.batches()])
    with_workers.close()


def test_the_last_batch_of_an_epoch_is_not_given_again(run):
    """Neither a whole one nor the rest."""
    for size in (41, 20):
        loader = load(run, batch_size=size)
        steps = loader.batches()
        for _ in range(len(loader)):
            next(steps)
        again = load(run, batch_size=size)
        again.load_state_dict(loader.state_dict())
        assert not list(again.batches())
        assert not list(steps)
        assert keys(again) == keys(loader)


def test_a_state_goes_on_with_other_ranks_and_batches(run):
    loader = load(run, batch_size=12)
    steps = loader.batches()
    next(steps)
    state, rest = loader.state_dict(), [key for batch in steps for key in batch["keys"]]
    halves = [load(run, batch_size=3, rank=rank, ranks=2) for rank in range(2)]
    for half in halves:
        half.load_state_dict(state)
    assert sorted(key for half in halves for key in keys(half)) == sorted(rest)
    with pytest.raises(DatagenError, match="12 samples of the epoch are done"):
        load(run, batch_size=7).load_state_dict(state)


def test_a_state_of_other_data_or_settings_is_refused(run, items, tmp_path):
    state = load(run).state_dict()
    other = tiny_shards.write(tmp_path, chain(items, COUNT, first=1))
    for loader in (load(other), load(run, seed=1), load(run, negatives=1)):
        with pytest.raises(DatagenError, match="other shards or settings"):
            loader.load_state_dict(state)


def test_one_worker_suffices_for_no_batch_at_all(run):
    with pytest.raises(DatagenError, match="41 samples in an epoch, 42 in a batch"):
        load(run, batch_size=42, drop_last=True)


def test_sources_that_do_not_go_together_are_refused(run):
    for sources, line in (
        ([], "no sources"),
        ([run, run], "same name"),
        ([Source(run, 1, "a"), Source(run, None, "b")], "some have none"),
        ([Source(run, -1.0)], "above 0"),
    ):
        with pytest.raises(DatagenError, match=line):
            load(sources)
    with pytest.raises(DatagenError, match="no split 'vall'"):
        load(Source(run, split="vall"))
    with pytest.raises(ValueError, match="more than 1 together"):
        LoaderSettings(image_only=0.5, text_only=0.6)
    with pytest.raises(DatagenError, match="rank 2 of 2"):
        load(run, rank=2, ranks=2)
