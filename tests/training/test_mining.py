"""Hard negatives of the model in training: against loops, and through whole trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as run_with
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs datagen[models]")

import tiny_shards  # noqa: E402
from tiny_trainings import combined, curve  # noqa: E402

from datagen.errors import DatagenError  # noqa: E402
from datagen.training import checkpoints, loop  # noqa: E402
from datagen.training.answering import Answering  # noqa: E402
from datagen.training.hard_negatives import HardNegativeSettings, hard  # noqa: E402
from datagen.training.loader import Loader, LoaderSettings  # noqa: E402
from datagen.training.others import Gallery, Others  # noqa: E402
from datagen.training.samples import number_of  # noqa: E402

MINED = ("mining.draw=2", "mining.keep=6", "mining.choice=top")
COUNT = 17


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of triplets from picture n to picture n + 1, without negatives."""
    folder = tmp_path_factory.mktemp("shards")
    rows = tiny_shards.chain(tiny_shards.Items(folder / "items"), COUNT, negatives=0)
    return tiny_shards.write(folder / "run", rows, max_count=9)


def window(scores: list[float], right: set[int], depth: int = 0) -> list[int]:
    """Between the two largest drops behind the target, by plain loops."""
    target = min(scores[one] for one in right)
    ranked = sorted((-s, at) for at, s in enumerate(scores) if at not in right and s <= target)
    ranked = ranked[:depth] if depth else ranked
    names = [at for _, at in ranked]
    drops = [(ranked[n + 1][0] - ranked[n][0], -n) for n in range(len(ranked) - 1)]
    best = max(drops, default=None)
    apart = [one for one in drops if best is not None and abs(one[1] - best[1]) > 1]
    if best is None or not apart:
        return names
    low, high = sorted((-best[1], -max(apart)[1]))
    return names[low + 1 : high + 1]


@run_with(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=12), st.data(),
)  # fmt: skip
def test_a_window_lies_between_the_two_largest_drops(scores: list[int], data: Any) -> None:
    right = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1, max_size=2))
    depth = data.draw(st.integers(0, 6))
    numbers = torch.tensor([[*right, -1]])
    chosen = HardNegativeSettings(keep=5, depth=depth)
    (found,) = hard(torch.tensor([scores]).float() / 16, numbers, chosen).tolist()
    known = window([one / 16 for one in scores], right, depth)[:5]
    assert [one for one in found if one >= 0] == known
    assert found[len(known) :] == [-1] * (5 - len(known))


def test_the_nearest_leave_out_right_answers_and_what_is_within_the_margin() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.75, 0.1, 0.6], [0.5, 0.4, 0.3, 0.2, 0.1]])
    right = torch.tensor([[1, -1], [-1, -1]])
    nearest = HardNegativeSettings(choice="top", keep=3)
    assert hard(scores, right, nearest).tolist() == [[0, 2, 4], [-1] * 3]
    apart = HardNegativeSettings(choice="top", keep=3, margin=0.1)
    assert hard(scores, right, apart).tolist()[0] == [4, 3, -1]
    scores[0, 2] = float("nan")
    assert hard(scores, right, nearest).tolist()[0] == [0, 4, 3]


def test_a_gallery_holds_each_medium_once_in_a_place_that_has_its_bytes(shards: str) -> None:
    loader = Loader(shards, tiny_shards.GEOMETRY, LoaderSettings(batch_size=4, workers=0))
    gallery = Gallery.of(loader.runs)
    assert len(gallery) == COUNT + 1
    names = {}
    for number, (run, row, role, place) in zip(gallery.numbers, gallery.places, strict=True):
        entry = loader.runs[run].entry(row)
        names[number] = entry.item(role, place)
        assert number_of(entry.item(role, place)) == number
        assert loader.runs[run].read(entry, [(role, place)])
    assert len(Gallery.of(loader.runs, references=False)) == COUNT
    assert len(Gallery.of(loader.runs, limit=5)) < len(gallery)
    every = gallery.at(gallery.numbers)
    np.testing.assert_array_equal(every, np.arange(len(gallery)))
    assert gallery.at(np.asarray([0])).tolist() == [-1]


def test_samples_have_the_pictures_of_the_negatives_that_were_chosen(shards: str) -> None:
    chosen = LoaderSettings(batch_size=8, workers=0, chunk=4)
    loader = Loader(shards, tiny_shards.GEOMETRY, chosen)
    gallery = Gallery.of(loader.runs)
    random = np.random.default_rng(1)
    numbers = np.stack([random.permutation(COUNT + 1)[:5] for _ in range(COUNT)]).astype(np.int32)
    numbers[:, 4] = -1
    loader.others = Others(gallery, numbers, 3)
    rows = {key: at for at, key in enumerate(loader.runs[0].column("key").to_pylist())}
    eye = loader._maker.eyes[0]
    for batch in loader.batches():
        for key, own in zip(batch["keys"], batch["negatives"].tolist(), strict=True):
            assert len(set(own)) == 3
            items = [batch["items"][at].item() for at in own]
            allowed = gallery.numbers[numbers[rows[key]][:4]].tolist()
            assert set(items) <= set(allowed)
            for at, item in zip(own, items, strict=True):
                run, row, role, place = gallery.places[gallery.at(np.asarray([item]))[0]]
                entry = loader.runs[run].entry(row)
                data = loader.runs[run].read(entry, [(role, place)])[role, place]
                known = eye.pictures(data, {}, np.random.default_rng(0))
                assert torch.equal(batch["pixels"][at], torch.tensor(known[0]))
    loader.close()


def begun(shards: str, out: Path, *changes: str) -> loop.Training:
    from datagen.training.across import Ranks
    from datagen.training.loader_settings import named

    return loop.Training(
        named(shards), str(out), combined(*MINED, *changes), "cpu", Ranks(), lambda *_: None
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [0, 3])
def test_what_is_mined_is_what_brute_force_finds(shards: str, tmp_path: Path, chunk: int) -> None:
    """All queries and pictures, asked in other batches."""
    training = begun(shards, tmp_path, f"chunk={chunk}", "mining.warmup=0", "mining.keep=4")
    training.hooks["mining"].epoch(0)
    found = training.loader.others
    assert found is not None
    model = training.model.eval()
    answers = Answering(model, 5)
    folder = Path(shards).parent / "items"
    by_item = {number_of(tiny_shards.Items(folder)(n)["id"]): n for n in range(COUNT + 1)}
    media = [{"path": str(folder / f"{n}.bin"), "modality": "image"} for n in range(COUNT + 1)]
    pictures = answers.targets(media)
    told_of = [training.loader.runs[0][row]["json"] for row in range(COUNT)]
    numbers = [int(one["references"][0]["key"]) for one in told_of]
    texts = [one["modification"] for one in told_of]
    queries = answers.queries([[media[number]] for number in numbers], texts)
    for row, number in enumerate(numbers):
        scores = pictures @ queries[row]
        scores[number + 1] = -9
        known = np.argsort(-scores)[:4]
        items = found.gallery.numbers[found.chosen[row]]
        assert [by_item[item] for item in items] == known.tolist()


def test_random_negatives_come_before_the_first_time_and_are_no_answers(
    shards: str, tmp_path: Path
) -> None:
    training = begun(shards, tmp_path, "mining.warmup=2", "mining.every=2", "mining.keep=20")
    mining = training.hooks["mining"]
    chosen = []
    for number in range(5):
        mining.epoch(number)
        chosen.append(training.loader.others.chosen)
        gallery = training.loader.others.gallery
        for row, ids in enumerate(training.loader.runs[0].column("targets").to_pylist()):
            right = gallery.at(np.asarray(list(map(number_of, ids))))
            assert not set(right) & set(chosen[-1][row].tolist())
    assert [chosen[n] is chosen[n + 1] for n in range(4)] == [True, False, True, False]


class Killed(Exception):
    pass


def test_a_stop_does_not_show_where_negatives_are_mined(shards: str, tmp_path: Path) -> None:
    """Two steps an epoch; stopped within, and at the end of, an epoch."""
    changes = ("steps=7", "checkpoints.every=1", "mining.warmup=1", "mining.every=2")
    loop.train([shards], str(tmp_path / "whole"), combined(*MINED, *changes))
    for stop in (2, 5):

        def kill(step: int, steps: int, values: Any, stop: int = stop) -> None:
            if step == stop:
                raise Killed

        with pytest.raises(Killed):
            loop.train([shards], str(tmp_path / "cut"), combined(*MINED, *changes), kill)
    loop.train([shards], str(tmp_path / "cut"), combined(*MINED, *changes))
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    states = [checkpoints.last(str(tmp_path / name)) for name in ("cut", "whole")]
    mined = [state["hooks"]["mining"]["chosen"] for state in states if state]
    assert torch.equal(*mined)


def test_mining_without_negatives_in_the_loss_is_an_error(shards: str, tmp_path: Path) -> None:
    with pytest.raises(DatagenError, match="set own or all"):
        begun(shards, tmp_path, "loss.negatives=none")


def test_without_media_there_is_nothing_to_mine(tmp_path: Path) -> None:
    """Targets that are vectors alone, references left out."""
    items = tiny_shards.Items(tmp_path / "items")
    rows = tiny_shards.chain(items, 4, negatives=0)
    for row in rows:
        row["targets"] = [{**one, "media": None} for one in row["targets"]]
    vectors = pa.array(np.eye(4, 8, dtype=np.float32).tolist(), pa.list_(pa.float32(), 8))
    table = pa.Table.from_pylist(rows, schema=tiny_shards.TRIPLETS)
    run = tiny_shards.write(tmp_path / "run", table.append_column("target_vector", vectors))
    with pytest.raises(DatagenError, match="no triplet has a medium"):
        begun(run, tmp_path / "out", "mining.candidates=targets", "loader.batch_size=4")
