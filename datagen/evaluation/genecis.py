"""GeneCIS: Vaze et al. 2023 (arXiv:2306.07969), four kinds of conditional similarity.

Each query has a gallery of its own, of one target and some ten others. The object tasks take whole
images of COCO 2017 val; the attribute tasks take one object of an image of Visual Genome, cut out
as the official code does: 1.7 times as wide and high as its box, from 0.7 of its size left of and
above it, padded to a square with black. As there, queries whose gallery has another length than
most are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from datagen import store
from datagen.evaluation import _files, metrics
from datagen.evaluation.benchmark import Asked, Benchmark, Figures, Part, Picture, Protocol, Query
from datagen.evaluation.places import Places
from datagen.step import Settings

MEND = (
    "annotations: genecis/*.json of github.com/facebookresearch/genecis; images: COCO 2017 val in "
    "val2017/, Visual Genome 1.2 in VG_100K/ and VG_100K_2/ or VG_100K_all/"
)
Task = Literal["focus_attribute", "change_attribute", "focus_object", "change_object"]
TASKS: tuple[Task, ...] = ("focus_attribute", "change_attribute", "focus_object", "change_object")
#: Queries of each task.
SIZES = {
    "focus_attribute": 2000,
    "change_attribute": 2112,
    "focus_object": 1960,
    "change_object": 1960,
}
AT = (1, 2, 3)
#: How much of the size of its box an object is cut out left of and above it.
DILATION = 0.7


class GenecisSettings(Settings):
    """tasks: those that are measured. coco, genome: folders of the images of COCO 2017 val and of
    Visual Genome, by default val2017/ and VG_100K_all/, VG_100K/, VG_100K_2/ of the data folder.
    """

    tasks: tuple[Task, ...] = Field(TASKS, min_length=1)
    coco: str = ""
    genome: str = ""


class _Image(BaseModel):
    """One image of a template: of COCO by ``val_image_id``, or an object of Visual Genome."""

    val_image_id: int | None = None
    image_id: int | None = None
    instance_bbox: tuple[float, float, float, float] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> _Image:
        if self.val_image_id is None and (self.image_id is None or self.instance_bbox is None):
            raise ValueError("val_image_id, or image_id and instance_bbox, expected")
        return self


class _Row(BaseModel):
    reference: _Image
    target: _Image
    gallery: list[_Image]
    condition: str


class Genecis(Protocol[GenecisSettings]):
    name = "genecis"
    about = "conditional similarity, small galleries of their own; recall@1, 2, 3"
    paper = "arXiv:2306.07969"
    mend = MEND
    Settings = GenecisSettings

    def read(self, data: str) -> Benchmark:
        found = _Pictures(self.settings, data)
        queries: list[Query] = []
        parts, notes = [], []
        for task in dict.fromkeys(self.settings.tasks):
            path = _files.find(data, [f"genecis/{task}.json", f"{task}.json"], MEND)
            rows = _files.json_rows(path, _Row)
            lengths = Counter(len(row.gallery) for row in rows)
            # The most frequent length, the smaller of equals.
            usual = min(lengths, key=lambda length: (-lengths[length], length))
            asked = []
            for number, row in enumerate(rows):
                if len(row.gallery) != usual:
                    continue
                target = found.name(row.target)
                among = tuple(dict.fromkeys([target, *map(found.name, row.gallery)]))
                asked.append(Asked(len(queries), (target,), (), among))
                reference = found.name(row.reference)
                queries.append(Query(f"{task}-{number}", (reference,), (row.condition,)))
            odd = len(rows) - len(asked)
            if odd:
                notes.append(
                    f"{task}: {odd:,} queries left out, whose gallery is not of {usual} others "
                    "(official rule)"
                )
            seen = tuple(dict.fromkeys(one for query in asked for one in query.among or ()))
            count = max(0, SIZES[task] - odd)
            parts.append(Part(task, seen, tuple(asked), count, whole_lists=True))
        return Benchmark(tuple(queries), tuple(parts), found.pictures, tuple(notes), MEND)

    def figures(self, part: Part, found: Places) -> Figures:
        return {f"R@{k}": metrics.mean(metrics.recall(k), found.targets) for k in AT}

    def summary(self, figures: Mapping[str, Figures]) -> dict[str, Figures]:
        if len(figures) < 2:
            return {}
        name = "mean" if len(figures) == len(TASKS) else f"mean of {', '.join(figures)}"
        return {
            name: {
                f"R@{k}": sum(one[f"R@{k}"] for one in figures.values()) / len(figures) for k in AT
            }
        }


class _Pictures:
    """Names images and objects, and finds their files."""

    def __init__(self, settings: GenecisSettings, data: str) -> None:
        genome = ("VG_100K_all", "VG_100K", "VG_100K_2")
        self._coco = [settings.coco] if settings.coco else [store.join(data, "val2017")]
        self._genome = (
            [settings.genome] if settings.genome else [store.join(data, one) for one in genome]
        )
        self._media = _files.Media()
        self.pictures: dict[str, Picture] = {}

    def name(self, image: _Image) -> str:
        """The name of ``image``, which is among ``pictures`` then."""
        box = None
        if image.val_image_id is not None:
            name = file = f"{image.val_image_id:012d}"
            folders = self._coco
        else:
            assert image.instance_bbox is not None
            name, file = f"{image.image_id} {image.instance_bbox}", str(image.image_id)
            box, folders = _dilated(image.instance_bbox), self._genome
        if name not in self.pictures:
            self.pictures[name] = self._media.picture(folders, file, ".jpg", box=box)
        return name


def _dilated(box: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is cut out for ``box`` (left, top, width, height)."""
    left, top, width, height = box
    left, top = max(0.0, left - DILATION * width), max(0.0, top - DILATION * height)
    return left, top, left + (1 + DILATION) * width, top + (1 + DILATION) * height
