"""Trainings: stops do not show, chunks and ranks have the gradients of the whole."""

from __future__ import annotations

import importlib.machinery
import json
import multiprocessing
import os
import re
import resource
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs datagen[models]")

import tiny_shards  # noqa: E402
from tiny_trainings import SMALL, combined, curve  # noqa: E402

from datagen import store  # noqa: E402
from datagen.errors import DatagenError, RecipeError  # noqa: E402
from datagen.training import beginning, checkpoints, logs, loop, retriever, settings  # noqa: E402
from datagen.training.across import Ranks  # noqa: E402
from datagen.training.loader import Loader, LoaderSettings, Source  # noqa: E402


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of 32 triplets, from picture n to picture n + 1, with hard negatives."""
    folder = tmp_path_factory.mktemp("shards")
    rows = tiny_shards.chain(tiny_shards.Items(folder / "items"), 32)
    return tiny_shards.write(folder / "run", rows, include_negatives=True)


def weights(out: Path) -> dict[str, Any]:
    found = checkpoints.last(str(out))
    assert found is not None
    return found["weights"]


def test_a_trained_folder_answers(shards: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    loop.train([shards], str(out), combined("steps=2"))
    answers = retriever.load(str(out), device="cpu")
    medium = {"path": str(Path(shards).parent / "items" / "3.bin"), "modality": "image"}
    (one,) = answers.queries([[medium]], ["3 to 4, said 0"])
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert "trained_steps: 2" in (out / "README.md").read_text()
    done = loop.train([shards], str(tmp_path / "more"), combined(
        "steps=1", f"model.model={out}", "composer.hidden=2"
    ))  # fmt: skip
    assert f"composer: {out} has one of its own, combiner, which is trained" in done.notes[0]
    assert loop.train([shards], str(out), combined("steps=2")).before


def test_a_folder_knows_how_its_images_are_padded(shards: str, tmp_path: Path) -> None:
    """Padded by the folder, by hand, and when it is trained on."""
    out = tmp_path / "out"
    loop.train([shards], str(out), combined("steps=1", "model.pad=1.25"))
    long = Image.radial_gradient("L").resize((200, 100)).convert("RGB")
    ground = Image.new("RGB", (200, 160))
    ground.paste(long, (0, 30))
    places = []
    for name, picture in (("long", long), ("ground", ground)):
        picture.save(tmp_path / f"{name}.png")
        places.append({"path": str(tmp_path / f"{name}.png"), "modality": "image"})
    own, by_hand = retriever.load(str(out), device="cpu").targets(places)
    np.testing.assert_array_equal(own, by_hand)
    cropped, _ = retriever.load(str(out), device="cpu", pad=0).targets(places)
    assert np.abs(cropped - own).max() > 1e-3
    again = tmp_path / "again"
    loop.train([shards], str(again), settings.read("", [f"model={out}", *SMALL[1:], "steps=1"]))
    assert json.loads((again / "retriever.json").read_text())["pad"] == 1.25
    with pytest.raises(DatagenError, match="a ratio of sides from 1 to 100"):
        retriever.load(str(out), device="cpu", pad=0.5)


def test_the_same_seed_learns_the_same(shards: str, tmp_path: Path) -> None:
    for name in ("one", "other"):
        loop.train([shards], str(tmp_path / name), combined("steps=3"))
    loop.train([shards], str(tmp_path / "another"), combined("steps=3", "seed=1"))
    assert curve(tmp_path / "one") == curve(tmp_path / "other")
    assert curve(tmp_path / "one") != curve(tmp_path / "another")


class Killed(Exception):
    pass


def test_a_stop_anywhere_does_not_show(shards: str, tmp_path: Path) -> None:
    """Noise weights, the mean of weights, dropout and accumulation go on as they were."""
    changes = ("steps=11", "checkpoints.every=2", "ema=0.9", "noise.warmup=1", "accumulate=2",
               "warmup=2")  # fmt: skip
    loop.train([shards], str(tmp_path / "whole"), combined(*changes))
    for stop in (1, 5, 6):

        def kill(step: int, steps: int, values: Any, stop: int = stop) -> None:
            if step == stop:
                raise Killed

        with pytest.raises(Killed):
            loop.train([shards], str(tmp_path / "cut"), combined(*changes), kill)
    loop.train([shards], str(tmp_path / "cut"), combined(*changes))
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "whole")) == 11
    files = ("composer.safetensors", "open_clip_model.safetensors")
    for name in files:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def in_processes(count: int, *given: Any) -> list[int | None]:
    """Exit codes of so many trainings that meet one another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=one_rank, args=(rank, count, port, *given)) for rank in range(count)
    ]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    return [one.exitcode for one in ranks]


def one_rank(
    rank: int, count: int, port: int, shards: str, out: str, chosen: Any, kill: int
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip

    def say(step: int, steps: int, values: Any) -> None:
        if step == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.train([shards], out, chosen, say)


def test_a_killed_training_goes_on(shards: str, tmp_path: Path) -> None:
    chosen = combined("steps=5", "checkpoints.every=2")
    loop.train([shards], str(tmp_path / "whole"), chosen)
    out = str(tmp_path / "cut")
    assert in_processes(1, shards, out, chosen, 3) == [-signal.SIGKILL]
    assert checkpoints.steps(out) == [2]
    half = tmp_path / "cut" / "checkpoints" / f"{store.TEMPORARY}half"
    half.write_bytes(b"of a checkpoint")
    assert in_processes(1, shards, out, chosen, 0) == [0]
    assert not half.exists()
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


@pytest.mark.parametrize("chunk", [0, 3])
def test_two_processes_learn_what_one_does(shards: str, tmp_path: Path, chunk: int) -> None:
    changes = ("steps=3", "composer.dropout=0", "loader.negatives=2", "loss.caption=0.5",
               "model.image=projection", "loss.learned=true", "noise.warmup=1")  # fmt: skip
    loop.train([shards], str(tmp_path / "one"), combined(*changes))
    half = combined(*changes, "loader.batch_size=4", f"chunk={chunk}")
    assert in_processes(2, shards, str(tmp_path / "two"), half, 0) == [0, 0]
    np.testing.assert_allclose(curve(tmp_path / "two"), curve(tmp_path / "one"), rtol=1e-4)
    norms = [
        [line["gradient"] for line in logs.read(str(tmp_path / name))] for name in ("one", "two")
    ]
    np.testing.assert_allclose(*norms, rtol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        ("queries={op: neighbours, templates: ['{target}, not {reference}']}", "steps=2",
         "loss.references=none"),
        ("mining={choice: top, keep: 4, draw: 4, warmup: 0}", "steps=2"),
    ],
    ids=["neighbours", "mining"],
)  # fmt: skip
def test_two_processes_make_the_queries_and_find_the_negatives_of_one(
    shards: str, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    told_ = ("composer.dropout=0", *changes)
    loop.train([shards], str(tmp_path / "one"), combined(*told_))
    half = combined(*told_, "loader.batch_size=4")
    assert in_processes(2, shards, str(tmp_path / "two"), half, 0) == [0, 0]
    np.testing.assert_allclose(curve(tmp_path / "two"), curve(tmp_path / "one"), rtol=1e-4)


@pytest.mark.parametrize("change", ["loader.drop_last=false", "loader.replace=false"])
def test_processes_never_wait_for_batches_that_do_not_come(change: str) -> None:
    several = Ranks()
    beginning.together(combined(change), several)
    several.count = 2
    with pytest.raises(DatagenError, match=f"{change.partition('=')[0]}: true expected"):
        beginning.together(combined(change), several)
    beginning.together(combined(), several)


def test_runs_are_mixed_by_their_weights(shards: str, tmp_path: Path) -> None:
    runs = [Source(shards, name=name) for name in ("pseudo", "real")]
    chosen = combined("weights=[3, 1]", "loader.samples=8")
    (batch,) = Loader(
        beginning.listed(runs, chosen), tiny_shards.GEOMETRY, chosen.loader
    ).batches()  # fmt: skip
    assert sorted(batch["runs"].tolist()) == [0] * 6 + [1] * 2
    with pytest.raises(DatagenError, match="weights: 2 for 1 runs"):
        loop.train([shards], str(tmp_path), combined("weights=[3, 1]"))


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """Torch itself tells of a position in its file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(DatagenError, match="File too large"):
            checkpoints.write(str(tmp_path), 1, {"weights": torch.zeros(10_000)}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_what_is_left_out_is_told_with_its_first_and_through_stops(tmp_path: Path) -> None:
    """Picture 5 is broken: of one triplet the target, of one the reference, of two a negative."""
    items = tiny_shards.Items(tmp_path / "items")
    rows = tiny_shards.chain(items, 8)
    run = tiny_shards.write(tmp_path / "run", rows, include_negatives=True)
    tiny_shards.spoil(run, items.bytes[items(5)["id"]])
    changes = ("loader.batch_size=2", "loader.negatives=2", "steps=8", "checkpoints.every=1")
    whole = loop.train([run], str(tmp_path / "whole"), combined(*changes))
    one, other = sorted(whole.notes)
    # Two epochs of eight triplets, in four batches each.
    assert one.startswith("members left out 2 times: ")
    assert other.startswith("samples left out 4 times: ")
    assert re.search(r"\(first: negative.1 of \w+ in .*train-.*tar, ", one)

    def kill(step: int, steps: int, values: Any) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        loop.train([run], str(tmp_path / "cut"), combined(*changes), kill)
    assert loop.train([run], str(tmp_path / "cut"), combined(*changes)).notes == whole.notes


def test_chunks_learn_what_the_whole_batch_does(shards: str, tmp_path: Path) -> None:
    changes = ("steps=3", "composer.dropout=0", "model.image=1", "model.text=projection")
    loop.train([shards], str(tmp_path / "whole"), combined(*changes))
    loop.train([shards], str(tmp_path / "chunks"), combined(*changes, "chunk=3"))
    np.testing.assert_allclose(curve(tmp_path / "chunks"), curve(tmp_path / "whole"), rtol=1e-4)


def test_accumulated_batches_are_their_mean(shards: str, tmp_path: Path) -> None:
    """Of the first step: the loss of two batches of 8 is the mean of theirs, and so is the norm
    of the gradient at most the mean of theirs."""
    still = ("composer.dropout=0", "learning_rate=1e-12", "schedule=constant")
    loop.train([shards], str(tmp_path / "each"), combined(*still, "steps=2"))
    loop.train([shards], str(tmp_path / "both"), combined(*still, "steps=1", "accumulate=2"))
    each, (both,) = logs.read(str(tmp_path / "each")), logs.read(str(tmp_path / "both"))
    assert both["loss"] == pytest.approx(np.mean([line["loss"] for line in each]), rel=1e-5)
    assert both["gradient"] <= np.mean([line["gradient"] for line in each])


def test_a_limit_takes_the_first_triplets_by_id(shards: str) -> None:
    chosen = LoaderSettings(batch_size=5, limit=10, workers=0)
    loader = Loader(shards, tiny_shards.GEOMETRY, chosen)
    keys = [key for batch in loader.batches() for key in batch["keys"]]
    every = Loader(shards, tiny_shards.GEOMETRY, LoaderSettings(batch_size=32, workers=0))
    assert sorted(keys) == sorted(key for batch in every.batches() for key in batch["keys"])[:10]


def test_weights_and_biases_are_told_every_step(tmp_path: Path, monkeypatch: Any) -> None:
    told_: list[Any] = []
    fake = types.ModuleType("wandb")
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    run = types.SimpleNamespace(
        log=lambda values, step: told_.append((step, values)), finish=lambda: told_.append("end")
    )
    monkeypatch.setattr(fake, "init", lambda **about: run, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = logs.Log(str(tmp_path), 0, ["wandb"], {"seed": 0})
    log.write(1, {"loss": 0.5, "rate": float("nan")})
    log.close()
    assert told_ == [(1, {"loss": 0.5}), "end"]
    assert logs.read(str(tmp_path)) == [{"step": 1, "loss": 0.5}]


def test_other_settings_do_not_mix_into_a_training(shards: str, tmp_path: Path) -> None:
    other = combined("loader.workers=3", "checkpointing=true", "logs=[tensorboard]")
    assert other.learned() == combined().learned(), "these change nothing that is learned"
    with pytest.raises(DatagenError, match="--out memory://x: a folder of this machine"):
        loop.train([shards], "memory://x", combined())
    loop.train([shards], str(tmp_path / "out"), combined("steps=1"))
    with pytest.raises(DatagenError, match="another learning_rate and steps began here"):
        loop.train([shards], str(tmp_path / "out"), combined("steps=2", "learning_rate=0.1"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("steps=0", "steps"),
        ("lerning_rate=1", "learning_rate"),
        ("loss.betta=1", "loss.betta"),
        ("steps", "look like"),
    ],
)
def test_a_wrong_setting_is_named_with_its_mend(override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        combined(override)


@pytest.mark.parametrize("name", settings.names())
def test_every_recipe_takes_a_step(shards: str, tmp_path: Path, name: str) -> None:
    small = ["model.model=bundled:tinyclip", "loader.batch_size=8", "loader.workers=0", "steps=2",
             "loader.frames=2", "chunk=4", "validation.on=none", "device=cpu"]  # fmt: skip
    loop.train([shards], str(tmp_path / "out"), settings.read(name, small))
    assert (tmp_path / "out" / "retriever.json").exists()
