"""InstructPix2Pix's folders, read as its released loader reads them."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Made, clip, picture, tree
from PIL import Image

from datagen import store
from datagen.errors import DatagenError
from datagen.export.format import Options
from datagen.export.write import NOTES, export


class Edits:
    """A dataset of edits by the description of the format.

    ``seeds.json`` lists ``[folder, [seed, …]]``; a split is a range of that list, cut at the
    floor of its share; a sample is one seed of a folder, two JPEG files and the text ``edit``.
    """

    def __init__(
        self,
        path: Path,
        split: str = "train",
        splits: tuple[float, float, float] = (0.9, 0.05, 0.05),
    ) -> None:
        assert sum(splits) == 1
        at = ("train", "val", "test").index(split)
        listed = json.loads((path / "seeds.json").read_text())
        bounds = [0.0, splits[0], splits[0] + splits[1], 1.0]
        first, last = (math.floor(bound * len(listed)) for bound in bounds[at : at + 2])
        self.path, self.listed = path, listed[first:last]

    def samples(self) -> list[tuple[dict[str, Any], int, list[np.ndarray[Any, Any]]]]:
        """Prompt, seed and both pictures as float arrays (channels, height, width), −1 to 1."""
        found = []
        for name, seeds in self.listed:
            prompt = json.loads((self.path / name / "prompt.json").read_text("utf-8"))
            for seed in seeds:
                assert isinstance(seed, str)
                arrays = []
                for number in (0, 1):
                    with Image.open(self.path / name / f"{seed}_{number}.jpg") as image:
                        assert image.format == "JPEG"
                        small = image.resize((32, 32), Image.Resampling.LANCZOS)
                    values = 2 * np.array(small, np.float32) / 255 - 1
                    arrays.append(values.transpose(2, 0, 1))
                found.append((prompt, int(seed), arrays))
        return found


def metadata(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def colour(number: int) -> np.ndarray[Any, Any]:
    """The colour of the picture of that number, −1 to 1."""
    return 2 * np.array([number * 37 % 256, number * 91 % 256, number * 11 % 256]) / 255 - 1


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_released_loader_finds_every_pair_of_pictures_with_its_text(
    made: Made, tmp_path: Path, split: str
) -> None:
    export(made.out, "instruct_pix2pix", str(tmp_path / "out"))
    samples = Edits(tmp_path / "out" / split, splits=(1.0, 0.0, 0.0)).samples()
    rows = made.kept(split).values()
    names = {one["id"]: number for number, one in enumerate(made.items.values())}
    truth = {
        (row["modification"], names[row["references"][0]["id"]], names[row["targets"][0]["id"]])
        for row in rows
    }
    found = set()
    for prompt, _, arrays in samples:
        assert prompt["input"] == prompt["caption"]
        numbers = [int(prompt[name].rpartition(" ")[2]) for name in ("input", "output")]
        for number, array in zip(numbers, arrays, strict=True):
            assert np.abs(array - colour(number)[:, None, None]).max() < 0.1
        found.add((prompt["edit"], *numbers))
    assert found == truth
    assert len(samples) == len(rows)


def test_bytes_of_jpeg_files_are_those_of_the_run(made: Made, tmp_path: Path) -> None:
    written = export(made.out, "instruct_pix2pix", str(tmp_path / "out"))
    own = set(made.bytes_of.values())
    found = list((tmp_path / "out").rglob("*.jpg"))
    assert all(path.read_bytes() in own for path in found)
    assert written.media == {
        "written": len(found), "re-encoded": 0, "linked": 0, "kept": 0, "failed": 0
    }  # fmt: skip


def painted(made: Made, samples: int, scores: bool = True) -> dict[str, int]:
    """Pairs that were painted for one prompt, with the seeds of their samples; by id."""
    seeds = {}
    for number in range(samples):
        ids = [made.item(f"painted {number} {side}", picture(20 + 2 * number + side, "png"), "png")
               for side in (0, 1)]  # fmt: skip
        for one, caption in zip(ids, ("a red cup", "a blue cup"), strict=True):
            made.items[one]["caption"] = caption
        name = made.triplet([ids[0]], [ids[1]], "make it blue")
        seeds[name] = (1 << 62) + 7 * number
        told = {"seed": seeds[name], "self_share": 0.25, "guidance": 9.5, "model": "x"}
        made.rows[-1]["edit"] = json.dumps(told if scores else {"seed": seeds[name]})
    return seeds


def finish(made: Made, **columns: pa.DataType) -> None:
    """Write the run with further columns."""
    made.finish()
    path = store.join(made.out, "triplets.parquet")
    table = store.read_table(path)
    rows = sorted(made.rows, key=lambda row: row["id"])
    for name, kind in columns.items():
        table = table.append_column(name, pa.array([row.get(name) for row in rows], kind))
    store.write_table(path, table)


def test_samples_of_a_prompt_share_a_folder_and_keep_their_seeds(
    made: Made, tmp_path: Path
) -> None:
    seeds = painted(made, 4)
    for number, row in enumerate(made.rows[-4:]):
        row["score_clip_directional"] = 0.2 + number / 100
        row["score_edit_similarity"] = 0.8
        row["score_edit_directional"] = 0.1
        row["score_edit_target"] = 0.3
    finish(
        made,
        edit=pa.string(),
        score_clip_directional=pa.float64(),
        score_edit_similarity=pa.float64(),
        score_edit_directional=pa.float64(),
        score_edit_target=pa.float64(),
    )
    written = export(made.out, "instruct_pix2pix", str(tmp_path / "out"), ["train"])
    assert written.media["re-encoded"] == 8
    listed = json.loads((tmp_path / "out" / "train" / "seeds.json").read_text())
    (own,) = [one for one in listed if len(one[1]) > 1]
    assert own[1] == [str(seed) for seed in sorted(seeds.values())]
    folder = tmp_path / "out" / "train" / own[0]
    assert json.loads((folder / "prompt.json").read_text()) == {
        "caption": "a red cup", "input": "a red cup", "edit": "make it blue",
        "output": "a blue cup",
    }  # fmt: skip
    lines = metadata(folder)
    assert {line["triplet"]: line["seed"] for line in lines} == seeds
    ids = [row["id"] for row in made.rows[-4:]]
    for line in lines:
        assert line["p2p_threshold"] == 0.25
        assert line["cfg_scale"] == 9.5
        assert line["clip_sim_dir"] == 0.2 + ids.index(line["triplet"]) / 100
        assert line["clip_sim_image"] == 0.8
        assert line["clip_sim_1"] == 0.3
        assert line.keys() == {
            "seed", "triplet", "p2p_threshold", "cfg_scale", "clip_sim_1", "clip_sim_dir",
            "clip_sim_image",
        }  # fmt: skip
    (entry,) = [
        json.loads(line)
        for line in (tmp_path / "out" / NOTES / "entries.train.jsonl").read_text().splitlines()
        if json.loads(line)["number"] == int(own[0])
    ]
    assert sorted(entry["triplets"]) == sorted(seeds)


def test_how_well_a_picture_agrees_with_its_caption_comes_from_the_step_that_measured_it(
    made: Made, tmp_path: Path
) -> None:
    made.finish()
    note = store.read_json(store.join(made.out, "run.json"))
    note["steps"] = [{"id": "filter_clip_score", "folder": "steps/clip_score/0"}]
    store.write_json(store.join(made.out, "run.json"), note)
    values = {name: number / 100 for number, name in enumerate(made.items)}
    measured = pa.table({"id": list(values), "score_clip": list(values.values())})
    store.write_table(store.join(made.out, "steps/clip_score/0/measured.parquet"), measured)
    export(made.out, "instruct_pix2pix", str(tmp_path / "out"), ["train"])
    rows = made.kept("train")
    lines = [line for path in (tmp_path / "out" / "train").iterdir() if path.is_dir()
             for line in metadata(path)]  # fmt: skip
    assert len(lines) == len(rows)
    for line in lines:
        row = rows[line["triplet"]]
        assert line["clip_sim_0"] == values[row["references"][0]["id"]]
        assert line["clip_sim_1"] == values[row["targets"][0]["id"]]


def test_equal_seeds_of_a_prompt_are_told_apart(made: Made, tmp_path: Path) -> None:
    painted(made, 3, scores=False)
    for row in made.rows[-3:]:
        row["edit"] = '{"seed": 5}'
    finish(made, edit=pa.string())
    export(made.out, "instruct_pix2pix", str(tmp_path / "out"), ["train"])
    listed = json.loads((tmp_path / "out" / "train" / "seeds.json").read_text())
    (own,) = [one for one in listed if len(one[1]) > 1]
    assert own[1] == ["5", "6", "7"]


@pytest.mark.parametrize(
    "edit", ["", "{", "[1]", '{"seed": "../../x"}', '{"seed": -1}', '{"seed": true}', "[" * 9000]
)
def test_what_a_column_of_edits_may_not_say_is_passed_over(
    made: Made, tmp_path: Path, edit: str
) -> None:
    export(made.out, "instruct_pix2pix", str(tmp_path / "plain"), ["train"])
    for row in made.rows:
        row["edit"] = edit
    finish(made, edit=pa.string())
    export(made.out, "instruct_pix2pix", str(tmp_path / "odd"), ["train"])
    assert tree(tmp_path / "odd" / "train") == tree(tmp_path / "plain" / "train")


def test_pictures_that_the_loader_could_not_use_are_encoded_for_it(tmp_path: Path) -> None:
    """A loader of three channels that knows no EXIF gets grey, CMYK, turned and PNG images."""
    made = Made(str(tmp_path / "run"), str(tmp_path / "photos"))
    grey = Image.linear_gradient("L").resize((40, 30))
    kinds = {"L": grey, "CMYK": grey.convert("CMYK"), "RGB": grey.convert("RGB")}
    ids = []
    for mode, image in kinds.items():
        data = io.BytesIO()
        exif = Image.Exif()
        if mode == "RGB":
            exif[0x0112] = 6
        image.save(data, "JPEG", exif=exif)
        ids.append(made.item(f"{mode} 1", data.getvalue()))
    clear = io.BytesIO()
    Image.new("RGBA", (40, 30), (255, 0, 0, 0)).save(clear, "PNG")
    ids.append(made.item("clear 1", clear.getvalue(), "png"))
    for first, second in zip(ids, ids[1:] + ids[:1], strict=True):
        made.triplet([first], [second], f"from {first}")
    made.finish()
    written = export(made.out, "instruct_pix2pix", str(tmp_path / "out"))
    assert written.media["re-encoded"] == 8
    found = {}
    for path in (tmp_path / "out" / "train").rglob("*_0.jpg"):
        prompt = json.loads((path.parent / "prompt.json").read_text())
        with Image.open(path) as image:
            assert image.mode == "RGB"
            found[prompt["input"].split()[1]] = (image.size, np.array(image))
    assert found["RGB"][0] == (30, 40)
    assert found["L"][0] == found["CMYK"][0] == (40, 30)
    assert found["clear"][1].min() > 250
    upright = np.rot90(np.array(grey), -1)
    assert np.abs(found["RGB"][1].mean(2) - upright).mean() < 3
    again = export(made.out, "instruct_pix2pix", str(tmp_path / "out"))
    assert (again.media["kept"], again.media["re-encoded"]) == (8, 0)


def test_folders_stay_where_they_are_when_media_are_gone(made: Made, tmp_path: Path) -> None:
    export(made.out, "instruct_pix2pix", str(tmp_path / "whole"), ["val"])
    listed = json.loads((tmp_path / "whole" / "val" / "seeds.json").read_text())
    row = next(row for row in made.rows if row["modification"] == "null")
    extra = made.item("extra", picture(40))
    made.triplet([row["references"][0]["id"]], [extra], "one more", split="val")
    made.finish()
    export(made.out, "instruct_pix2pix", str(tmp_path / "more"), ["val"])
    Path(made.items[extra]["media"]["path"]).unlink()
    export(made.out, "instruct_pix2pix", str(tmp_path / "less"), ["val"])
    more, less = (
        json.loads((tmp_path / name / "val" / "seeds.json").read_text())
        for name in ("more", "less")
    )
    assert len(listed) == len(less) == 2
    assert all(one in more for one in less)
    left = (tmp_path / "less" / NOTES / "left_out.val.jsonl").read_text()
    assert "triplets without a readable medium" in left


def test_clips_and_captions_alone_are_left_out_and_counted(made: Made, tmp_path: Path) -> None:
    film = made.item("film", clip(1), "mp4")
    words = made.item("words", None)
    first = next(iter(made.items))
    filmed = made.triplet([first], [film], "in motion")
    told = made.triplet([first], [words], "in words")
    made.finish()
    written = export(made.out, "instruct_pix2pix", str(tmp_path / "out"), ["train"])
    left = written.splits["train"]["left_out"]
    assert left["clips, which this format has no place for"]["examples"] == [filmed]
    assert left["triplets without a readable medium"]["examples"] == [told]
    assert written.splits["train"]["triplets"] == len(made.kept("train")) - 2
    samples = Edits(tmp_path / "out" / "train", splits=(1.0, 0.0, 0.0)).samples()
    assert len(samples) == len(made.kept("train")) - 2


def test_a_loader_may_cut_its_own_splits_by_place(made: Made, tmp_path: Path) -> None:
    export(made.out, "instruct_pix2pix", str(tmp_path / "out"), ["train"])
    parts = [Edits(tmp_path / "out" / "train", name, (0.5, 0.25, 0.25)).listed
             for name in ("train", "val", "test")]  # fmt: skip
    listed = [one for part in parts for one in part]
    assert listed == json.loads((tmp_path / "out" / "train" / "seeds.json").read_text())
    names = [name for part in parts for name, _ in part]
    assert names == [f"{number:07d}" for number in range(len(names))]


def test_without_media_the_texts_are_the_same(made: Made, tmp_path: Path) -> None:
    export(made.out, "instruct_pix2pix", str(tmp_path / "with"))
    export(made.out, "instruct_pix2pix", str(tmp_path / "none"), options=Options("none"))
    texts, both = tree(tmp_path / "none"), tree(tmp_path / "with")
    assert not [path for path in texts if path.endswith(".jpg")]
    assert texts.items() <= both.items()


def test_links_are_the_files_themselves(made: Made, tmp_path: Path) -> None:
    written = export(made.out, "instruct_pix2pix", str(tmp_path / "out"), options=Options("link"))
    export(made.out, "instruct_pix2pix", str(tmp_path / "copy"))
    linked = [path for path in (tmp_path / "out").rglob("*.jpg") if path.stat().st_nlink > 1]
    assert len(linked) == written.media["linked"] > 0
    assert tree(tmp_path / "out") == tree(tmp_path / "copy")


def test_an_extension_of_ones_own_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(DatagenError, match=r"names all its files \.jpg"):
        export(
            made.out, "instruct_pix2pix", str(tmp_path / "out"), options=Options(extension="png")
        )
