"""CIRCO: Baldrati et al. 2023 (arXiv:2303.15247), the 123,403 unlabelled images of COCO 2017.

Several images are right for a query; mAP@k has the denominator min(number of them, k), recall@k
asks for the one image that the text was written for. The reference stays in the gallery, as in
the official code. Answers to the test split are known to the server alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

from datagen import store
from datagen.errors import DatagenError
from datagen.evaluation import _files, metrics
from datagen.evaluation.benchmark import Asked, Benchmark, Figures, Part, Protocol, Query
from datagen.evaluation.places import Places
from datagen.step import Settings

MEND = (
    "annotations: github.com/miccunifi/CIRCO; images and image_info_unlabeled2017.json: COCO 2017 "
    "unlabeled (cocodataset.org), in COCO2017_unlabeled/"
)
SIZES = {"val": 220, "test": 800}
IMAGES = 123_403
AT = (5, 10, 25, 50)


class CircoSettings(Settings):
    """split: val or test (whose answers are with the server). exclude_reference: leave the
    reference out of the gallery; the official code does not. images: the folder of the images, by
    default COCO2017_unlabeled/unlabeled2017 of the data folder.
    """

    split: Literal["val", "test"] = "val"
    exclude_reference: bool = False
    images: str = ""


class _Row(BaseModel):
    id: int
    reference_img_id: int
    relative_caption: str
    target_img_id: int | None = None
    gt_img_ids: list[int] = []
    semantic_aspects: list[str] = []


class _Image(BaseModel):
    id: int
    file_name: str


class Circo(Protocol[CircoSettings]):
    name = "circo"
    about = "photos of COCO, several targets; mAP, by semantic aspect too"
    paper = "arXiv:2303.15247"
    mend = MEND
    Settings = CircoSettings

    def read(self, data: str) -> Benchmark:
        split = self.settings.split
        path = _files.find(data, [f"annotations/{split}.json", f"{split}.json"], MEND)
        rows = _files.json_rows(path, _Row)
        pictures = self._gallery(data)
        named = [str(one) for row in rows for one in (row.reference_img_id, *row.gt_img_ids)]
        _files.known(named, pictures, path)
        asked = []
        for number, row in enumerate(rows):
            # The image that the text was written for stands first.
            targets = dict.fromkeys(
                str(one) for one in (row.target_img_id, *row.gt_img_ids) if one is not None
            )
            hidden = (str(row.reference_img_id),) if self.settings.exclude_reference else ()
            groups = tuple(row.semantic_aspects)
            asked.append(Asked(number, tuple(targets), hidden, groups=groups))
        return Benchmark(
            tuple(
                Query(str(row.id), (str(row.reference_img_id),), (row.relative_caption,))
                for row in rows
            ),
            (Part("gallery", tuple(pictures), tuple(asked), SIZES[split], IMAGES, top=max(AT)),),
            pictures,
            mend=MEND,
        )

    def _gallery(self, data: str) -> dict[str, Any]:
        inner = "annotations/image_info_unlabeled2017.json"
        path = _files.find(data, [f"COCO2017_unlabeled/{inner}", inner], MEND)
        found = store.read_json(path)
        try:
            images = [_Image.model_validate(one) for one in found["images"]]
        except (TypeError, KeyError, ValueError) as error:
            raise DatagenError(f"{path}: a list 'images' of id and file_name expected") from error
        own = store.join(data, "COCO2017_unlabeled", "unlabeled2017")
        folders = [self.settings.images or own]
        media = _files.Media()
        return {str(one.id): media.picture(folders, one.file_name, ".jpg") for one in images}

    def figures(self, part: Part, found: Places) -> Figures:
        out = {f"mAP@{k}": metrics.mean(metrics.average_precision_at(k), found.targets) for k in AT}
        for k in AT:
            out[f"R@{k}"] = metrics.mean(metrics.recall_of_first(k), found.targets)
        aspects = [one.groups for one in part.asked]
        by_aspect = metrics.by_group(metrics.average_precision_at(10), found.targets, aspects)
        out.update({f"mAP@10 {aspect}": value for aspect, value in by_aspect.items()})
        return out

    def submissions(self, benchmark: Benchmark, found: Sequence[Places]) -> dict[str, Any]:
        (part,), (ranked,) = benchmark.parts, found
        answers = {
            benchmark.queries[one.query].id: [int(part.gallery[row]) for row in first]
            for one, first in zip(part.asked, ranked.first, strict=True)
        }
        return {f"circo_{self.settings.split}.json": answers}
