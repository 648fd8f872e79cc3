"""The operator: rows to pairs of pictures that are painted from their captions."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pydantic import ValidationError

from datagen import schema, store
from datagen.edits.prompt_to_prompt import PromptToPrompt, PromptToPromptSettings
from datagen.errors import DatagenError
from datagen.step import Context

torch = pytest.importorskip("torch", reason="needs datagen[diffusion]")
diffusers = pytest.importorskip("diffusers", reason="needs datagen[diffusion]")
import tiny_diffusers  # noqa: E402

DOG, CAT = "a red dog on the grass", "a blue cat on the grass"
CHANGES = [{"field": "caption", "removed": "dog", "added": "cat"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_diffusers.tiny_stable_diffusion(tmp_path_factory.mktemp("sd"))


def opened(model: str, folder: Path, **told: Any) -> PromptToPrompt:
    quick = {"steps": 2, "batch_size": 2, "format": "png", "device": "cpu"}
    operator = PromptToPrompt(
        PromptToPromptSettings.model_validate(quick | {"model": model} | told)
    )
    operator.registered_name = "prompt_to_prompt"  # type: ignore[attr-defined]
    operator.open(Context(step="edit", seed=3, staged=str(folder / "staged")))
    return operator


def rows(*captions: tuple[str | None, str | None]) -> pa.Table:
    def member(caption: str | None) -> dict[str, Any]:
        none = dict.fromkeys(field.name for field in schema.MEMBER)
        return none | {"id": f"i-{caption}", "caption": caption, "labels": '{"kind":"pet"}'}

    evidence = {"operator": "one_word_diff", "reason": "a word", "changes": CHANGES, "score": None}
    return pa.Table.from_pylist(
        [
            {
                "id": f"row-{number}",
                "references": [member(before), member("another")],
                "targets": [member(after)],
                "evidence": evidence,
            }
            for number, (before, after) in enumerate(captions)
        ],
        schema=pa.schema([schema.PAIRS.field(n) for n in ("id", *SIDES, "evidence")]),
    )


SIDES = ("references", "targets")


def picture(member: dict[str, Any]) -> np.ndarray:
    media = member["media"]
    data = store.read_bytes(media["path"], media["offset"], media["size"])
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def plain(model: str, captions: Sequence[str], seed: int, guidance: float) -> list[np.ndarray]:
    """What diffusers paints by itself."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(model.removeprefix("file:"))
    pipe.set_progress_bar_config(disable=True)
    return [
        np.rint(
            pipe(
                caption,
                generator=torch.Generator().manual_seed(seed),
                guidance_scale=guidance,
                num_inference_steps=2,
                output_type="np",
            ).images[0]
            * 255
        )
        for caption in captions
    ]


def test_both_members_are_painted_from_their_captions(model: str, tmp_path: Path) -> None:
    operator = opened(model, tmp_path, cross_share=0, self_share=0, guidance=5)
    (line,) = operator(rows((DOG, CAT))).to_pylist()
    assert line["verdict"] == schema.KEPT
    told = json.loads(line["edit"])
    assert told["prompts"] == [DOG, CAT]
    for side, caption in zip(SIDES, (DOG, CAT), strict=True):
        (member,) = line[side]
        assert (member["id"], member["caption"], member["labels"]) == (None, caption, None)
        assert member["media"]["format"] == "png"
    theirs = plain(model, [DOG, CAT], told["seed"], 5)
    for side, expected in zip(SIDES, theirs, strict=True):
        assert np.abs(picture(line[side][0]) - expected).max() <= 1
    assert line["evidence"] == {
        "operator": "prompt_to_prompt",
        "reason": "a word",
        "changes": CHANGES,
        "score": None,
    }


def test_samples_differ_in_seed_and_in_what_they_share(model: str, tmp_path: Path) -> None:
    operator = opened(model, tmp_path, samples=4, self_share=[0.2, 0.4], cross_share=[0, 1])
    found = operator(rows((DOG, CAT))).to_pylist()
    told = [json.loads(line["edit"]) for line in found]
    assert [one["number"] for one in told] == [0, 1, 2, 3]
    assert {one["operator"] for one in told} == {"prompt_to_prompt"}
    for name, low, high in (("guidance", 7.5, 15), ("self_share", 0.2, 0.4), ("cross_share", 0, 1)):
        assert all(low <= one[name] <= high for one in told)
        assert len({one[name] for one in told}) == 4
    hashes = {line[side][0]["media"]["sha256"] for line in found for side in SIDES}
    assert len(hashes) == 8


def test_a_row_is_painted_alike_whatever_stands_beside_it(model: str, tmp_path: Path) -> None:
    table = rows((DOG, CAT), ("the sea", "the sky"), ("a shoe", "a red shoe"))
    operator = opened(model, tmp_path, batch_size=3)
    together = operator(table).to_pylist()
    apart = [line for at in (2, 0, 1) for line in operator(table.slice(at, 1)).to_pylist()]
    for line in apart:
        (same,) = (one for one in together if one["id"] == line["id"])
        for side in SIDES:
            assert line[side][0]["media"]["sha256"] == same[side][0]["media"]["sha256"]


def test_rows_without_two_captions_that_differ_are_rejected(model: str, tmp_path: Path) -> None:
    long = "a dog and a cat " * 20
    table = rows(
        (None, CAT), (DOG, ""), (DOG, " A Red  dog on the GRASS"), (long + "sea", long + "sky")
    )
    found = opened(model, tmp_path)(table).to_pylist()
    assert [(line["verdict"], line["rule"]) for line in found] == [
        ("rejected", "no_caption"),
        ("rejected", "no_caption"),
        ("rejected", "same_caption"),
        ("rejected", "same_caption"),
    ]
    assert found[0]["detail"] == "the reference has none"
    assert found[1]["detail"] == "the target has none"


def test_a_picture_that_the_checker_calls_unsafe_fails(tmp_path: Path) -> None:
    guarded = tiny_diffusers.tiny_guarded(tmp_path / "guarded")
    (line,) = opened(guarded, tmp_path, steps=1, batch_size=1)(rows((DOG, CAT))).to_pylist()
    assert (line["verdict"], line["rule"]) == ("failed", "unsafe_picture")


def test_pipelines_are_judged_before_any_weights(tmp_path: Path) -> None:
    def faults(index: dict[str, Any], **told: Any) -> list[str]:
        folder = tmp_path / index["_class_name"]
        folder.mkdir(exist_ok=True)
        (folder / "model_index.json").write_text(json.dumps(index))
        chosen = PromptToPromptSettings.model_validate({"model": f"file:{folder}"} | told)
        return list(PromptToPrompt(chosen).check())

    assert faults({"_class_name": "StableDiffusionPipeline"}) == []
    assert faults({"_class_name": "StableDiffusionXLPipeline"}, size=[1024, 768]) == []
    (fault,) = faults({"_class_name": "FluxPipeline"})
    assert "FluxPipeline has a transformer; prompt_to_prompt expects" in fault
    assert "\n" not in fault
    (fault,) = faults({"_class_name": "StableDiffusionInstructPix2PixPipeline"})
    assert "StableDiffusionInstructPix2PixPipeline" in fault


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"self_share": [0.9, 0.1]}, r"range \[low, high\]"),
        ({"cross_share": 1.5}, "cross_share: from 0 to 1"),
        ({"self_share": [-0.1, 0.5]}, "self_share: from 0 to 1"),
        ({"self_coarseness": 3}, "self_coarseness"),
        ({"self_blocks": ["side"]}, "self_blocks"),
    ],
)
def test_settings_that_mean_nothing_are_refused(told: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        PromptToPromptSettings.model_validate({"model": "hf:org/name"} | told)


def test_it_pickles_and_names_what_it_reads(model: str) -> None:
    operator = PromptToPrompt(PromptToPromptSettings(model=model))
    again = pickle.loads(pickle.dumps(operator))  # noqa: S301 -- what Ray does
    assert again.settings == operator.settings
    assert operator.revision().startswith("sha256:")
    assert operator.needs("pairs") == {"pairs", "items.captions"}
    assert {"collection", "items.media"} <= operator.gives("pairs")


def test_a_unet_that_is_told_its_guidance_paints_one_sample_at_a_time(tmp_path: Path) -> None:
    folder = tiny_diffusers.tiny_stable_diffusion(tmp_path / "told").removeprefix("file:")
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.unet = tiny_diffusers._unet(diffusers, 4, cross_attention_dim=32, time_cond_proj_dim=8)
    pipe.save_pretrained(folder)
    operator = opened(f"file:{folder}", tmp_path, samples=2, cross_share=0, self_share=0)
    for line in operator(rows((DOG, CAT))).to_pylist():
        told = json.loads(line["edit"])
        expected = plain(folder, [DOG, CAT], told["seed"], told["guidance"])
        for side, one in zip(SIDES, expected, strict=True):
            assert np.abs(picture(line[side][0]) - one).max() <= 1


def test_a_model_that_changed_its_class_is_one_line(tmp_path: Path) -> None:
    flux = tiny_diffusers.tiny_flux(tmp_path / "flux")
    with pytest.raises(DatagenError, match="FluxPipeline has a transformer"):
        opened(flux, tmp_path)
