"""Targets that are painted after an instruction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import painting
import pytest
from painting import answers, member, row, stored, table
from pydantic import ValidationError

from datagen import registry
from datagen.edits.instruct import Instruct, InstructSettings
from datagen.errors import DatagenError

pytest.importorskip("diffusers", reason="needs datagen[diffusion]")
import tiny_diffusers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_diffusers.tiny_instruct_pix2pix(tmp_path_factory.mktemp("instruct"))


@pytest.fixture
def dog(tmp_path: Path) -> dict[str, object]:
    return stored(tmp_path / "dog.png", painting.picture(1, (96, 64)))


def test_the_registry_finds_it_by_name() -> None:
    assert registry.find("edit", "instruct").__name__ == "Instruct"


def test_the_target_is_painted_and_all_else_stays(
    model: str, tmp_path: Path, dog: dict[str, object]
) -> None:
    told = {"guidance": (2.0, 9.0), "image_guidance": 1.5, "samples": 3}
    operator = painting.opened(Instruct, "instruct", tmp_path, model=model, **told)
    own = [member("a red dog on the grass", dog)]
    lines = answers(operator, table(row("a", references=own), row("b", references=own)))
    assert [(one["id"], one["verdict"]) for one in lines] == [(n, "kept") for n in "aaabbb"]
    for line in lines:
        assert line["references"] is None
        (target,) = line["targets"]
        assert target["id"] is None
        assert target["caption"] == "a red cat on the grass"
        assert painting.pixels(line).shape == (64, 64, 3)
        assert line["evidence"]["operator"] == "instruct"
        assert line["evidence"]["changes"][0]["added"] == "cat"
        record = json.loads(line["edit"])
        assert record["prompt"] == "make it a cat"
        assert 2 <= record["guidance"] <= 9
        assert record["image_guidance"] == 1.5
    assert len({painting.pixels(line).tobytes() for line in lines}) == 6


def test_a_picture_hangs_on_its_row_and_not_on_its_batch(
    model: str, tmp_path: Path, dog: dict[str, object]
) -> None:
    own = [member("a red dog on the grass", dog)]
    rows = [row(name, references=own) for name in "abc"]
    told = {"guidance": (2.0, 9.0)}
    operator = painting.opened(Instruct, "instruct", tmp_path, model=model, **told)
    beside = answers(operator, table(*rows))
    alone = [answers(operator, table(one))[0] for one in reversed(rows)][::-1]
    for first, second in zip(beside, alone, strict=True):
        assert np.array_equal(painting.pixels(first), painting.pixels(second))
        assert first["edit"] == second["edit"]


def test_pictures_that_keep_their_shape_are_painted_a_row_at_a_time(
    model: str, tmp_path: Path, dog: dict[str, object]
) -> None:
    operator = painting.opened(Instruct, "instruct", tmp_path, model=model, size=64)
    assert operator.by_row
    high = stored(tmp_path / "high.png", painting.picture(2, (64, 128)))
    rows = [row("a", references=[member("a", dog)]), row("b", references=[member("b", high)])]
    shapes = [painting.pixels(one).shape for one in answers(operator, table(*rows))]
    assert shapes == [(64, 64, 3), (96, 32, 3)] or shapes == [(64, 96, 3), (96, 32, 3)]


def test_samples_of_rows_of_several_shapes_fill_calls_of_their_own(
    model: str, tmp_path: Path, dog: dict[str, object]
) -> None:
    told = {"model": model, "size": 64, "samples": 3, "batch_size": 2}
    operator = painting.opened(Instruct, "instruct", tmp_path, **told)
    high = stored(tmp_path / "high.png", painting.picture(2, (64, 128)))
    rows = [row("a", references=[member("a", dog)]), row("b", references=[member("b", high)])]
    assert operator._loaded is not None
    calls: list[int] = []
    paint = operator._loaded._painted

    def counted(some: Any, varying: Any) -> Any:
        calls.append(len(some))
        return paint(some, varying)

    operator._loaded._painted = counted  # type: ignore[method-assign]
    beside = answers(operator, table(*rows))
    assert calls == [2, 2, 2, 2]
    alone = [line for one in reversed(rows) for line in answers(operator, table(one))]
    found = {(one["id"], json.loads(one["edit"])["number"]): one for one in alone}
    assert len(found) == len(beside) == 6
    for line in beside:
        other = found[line["id"], json.loads(line["edit"])["number"]]
        assert np.array_equal(painting.pixels(line), painting.pixels(other))


def test_a_row_without_what_the_prompt_asks_for_is_rejected(
    model: str, tmp_path: Path, dog: dict[str, object]
) -> None:
    prompt = "{{ modification }}, so that it shows {{ target }}"
    operator = painting.opened(Instruct, "instruct", tmp_path, model=model, prompt=prompt)
    own = [member("a red dog on the grass", dog)]
    rows = [
        row("a", references=own),
        row("b", references=own, modification=""),
        row("c", references=own, targets=[member(None, None)]),
    ]
    lines = answers(operator, table(*rows))
    rules = {one["id"]: one["rule"] for one in lines}
    assert rules == {"a": None, "b": "no_modification", "c": "no_caption"}
    (kept,) = (one for one in lines if one["id"] == "a")
    wanted = "make it a cat, so that it shows a red cat on the grass"
    assert json.loads(kept["edit"])["prompt"] == wanted


def test_a_reference_that_cannot_be_read_fails_its_row(
    model: str, tmp_path: Path, dog: dict[str, object]
) -> None:
    operator = Instruct(InstructSettings(model=model))
    gone = dog | {"path": str(tmp_path / "gone.png")}
    rows = [
        row("a", references=[member("a", None)]),
        row("b", references=[member("b", gone)]),
        row("c", references=[member("c", dog)]),
    ]
    found = operator.prepare(table(*rows))
    assert found["verdict"].to_pylist() == ["failed", "failed", "kept"]
    assert found["rule"].to_pylist() == ["no_picture", "missing_file", None]


def test_captions_are_no_templates(model: str, tmp_path: Path, dog: dict[str, object]) -> None:
    operator = painting.opened(Instruct, "instruct", tmp_path, model=model)
    text = "{{ 7 * 7 }} {% for x in range(9) %}x{% endfor %}"
    rows = table(row("a", references=[member("a", dog)], modification=text))
    assert json.loads(answers(operator, rows)[0]["edit"])["prompt"] == text


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"prompt": "{{ captoin }}"}, "captoin"),
        ({"prompt": "{{ target"}, "prompt: "),
        ({"prompt": "{{ ''.__class__.__mro__ }}"}, None),
    ],
)
def test_a_prompt_that_is_none_is_an_error(
    model: str, told: dict[str, str], words: str | None
) -> None:
    if words:
        with pytest.raises(DatagenError, match=words):
            Instruct(InstructSettings(model=model, **told))
        return
    operator = Instruct(InstructSettings(model=model, **told))
    with pytest.raises(DatagenError, match="unsafe"):
        operator.told(row("a"))


@pytest.mark.parametrize("told", [{"guidance": (9.0, 2.0)}, {"image_guidance": -1.0}])
def test_a_range_that_is_none_is_an_error(model: str, told: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="a range"):
        InstructSettings.model_validate({"model": model, **told})


def test_kontext_edits_too(tmp_path: Path, dog: dict[str, object]) -> None:
    reference = tiny_diffusers.tiny_flux_kontext(tmp_path / "kontext")
    told = {"arguments": {"_auto_resize": False}, "guidance": (2.0, 3.0)}
    operator = painting.opened(Instruct, "instruct", tmp_path, model=reference, **told)
    lines = answers(operator, table(row("a", references=[member("a", dog)])))
    assert painting.pixels(lines[0]).shape == (64, 64, 3)
