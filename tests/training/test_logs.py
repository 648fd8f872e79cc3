"""What TensorBoard and W&B hold of a training that was stopped, by their own readers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs datagen[models]")

from datagen.errors import DatagenError  # noqa: E402
from datagen.training import logs  # noqa: E402


def stopped_and_gone_on(out: Path, kind: str) -> None:
    """Six steps, a checkpoint after the fourth, and on from there to the eighth."""
    for begin, end in ((0, 6), (4, 8)):
        log = logs.Log(str(out), begin, [kind], {"seed": 7})
        for step in range(begin + 1, end + 1):
            log.write(step, {"loss": (begin + 1) / step, "rate": float("inf")})
        log.close()


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    stopped_and_gone_on(tmp_path, "tensorboard")
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert found.Tags()["scalars"] == ["loss"]
    known = [1 / 1, 1 / 2, 1 / 3, 1 / 4, 5 / 5, 5 / 6, 5 / 7, 5 / 8]
    told = [(event.step, event.value) for event in found.Scalars("loss")]
    assert told == [(step, pytest.approx(value)) for step, value in enumerate(known, 1)]
    assert [line["loss"] for line in logs.read(str(tmp_path))] == known


def records(path: Path) -> Iterator[Any]:
    """The records of a file of W&B: those of a LevelDB log, behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (1 << 15) - at % (1 << 15) < 7:
            at += (1 << 15) - at % (1 << 15)
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def test_wandb_holds_each_step_without_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    stopped_and_gone_on(tmp_path, "wandb")
    runs = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len({path.name for path in runs}) == 1
    found = []
    for path in runs:
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                about = {one.key or one.nested_key[0]: json.loads(one.value_json) for one in items}
                found.append((about["_step"], about["loss"]))
    known = [1 / 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 5 / 5, 5 / 6, 5 / 7, 5 / 8]
    assert found == list(zip([1, 2, 3, 4, 5, 6, 5, 6, 7, 8], known, strict=True))


def test_wandb_without_an_account_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What another test began would be kept, with its mode.
    pytest.importorskip("wandb", reason="needs wandb").teardown()
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(DatagenError, match="WANDB_MODE=offline") as raised:
        logs.Log(str(tmp_path), 0, ["wandb"], {})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatagenError, match=f"^logs: {kind} is not installed; pip install {kind}$"):
        logs.check([kind])
