"""What docs/TRAINING.md shows of models and losses runs as it stands there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clips
import tiny_dual_encoders

from datagen import models

torch = pytest.importorskip("torch", reason="needs datagen[models]")
models.prepare()

PAGE = Path(__file__).resolve().parents[2] / "docs" / "TRAINING.md"
BLOCKS = re.findall(r"<!-- tried -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def shown(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the block with ``name`` leaves behind, run in ``folder``."""
    (block,) = [one for one in BLOCKS if name in one]
    monkeypatch.chdir(folder)
    Path("block.py").write_text(block)
    return runpy.run_path("block.py")


def test_a_retriever_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tiny_dual_encoders.pictures(tmp_path, 2)
    Path(one["path"]).rename(tmp_path / "one.jpg")
    Path(two["path"]).rename(tmp_path / "reference.jpg")
    (tmp_path / "clip.mp4").write_bytes(tiny_clips.fade(9))
    left = shown("scores = queries", tmp_path, monkeypatch)
    assert left["scores"].shape == (2, 2)
    assert left["scores"].dtype == np.float32


def test_a_folder_is_written_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = shown("folders.save", tmp_path, monkeypatch)
    names = {name for name, one in left["again"].towers.named_parameters() if one.requires_grad}
    assert names
    assert all(name.startswith("model.visual") for name in names)
    assert "R&#64;1 | 0.25" in (tmp_path / "mine" / "README.md").read_text()


def test_a_step_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = shown("objective.cached", tmp_path, monkeypatch)
    random = np.random.default_rng(0)
    numbers = torch.arange(4)[:, None]
    batch = {
        "pixels": torch.from_numpy(random.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)),
        "counts": torch.ones(8, dtype=torch.int64),
        "items": torch.arange(1, 9),
        "references": numbers,
        "targets": numbers + 4,
        "negatives": numbers[:, :0],
        "target_ids": numbers + 5,
        "target_vectors": torch.zeros(4, 0),
        "has_vector": torch.zeros(4, dtype=torch.bool),
        "texts": ["in red", "bigger", "two of them", None],
        "captions": [None] * 4,
    }
    first = [left["step"](batch)[0].item() for _ in range(12)]
    assert first[-1] < first[0]


def test_weights_find_what_loses_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = shown("noise_weights", tmp_path, monkeypatch)
    assert left["weights"][:900].mean() > 0.98
    assert left["weights"][900:].mean() < 0.12
