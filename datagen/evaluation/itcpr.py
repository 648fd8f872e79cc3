"""ITCPR: Liu et al. 2023 (arXiv:2311.16515), the same person in other clothes.

Queries of Celeb-reID, PRCC and LAST; right are the images of the gallery with the query's
instance id, in a gallery of 20,510. The mean inverse negative penalty (mINP) tells how far down
the last of them is.
"""

from __future__ import annotations

from pydantic import BaseModel

from datagen.errors import DatagenError
from datagen.evaluation import _files, metrics
from datagen.evaluation.benchmark import Asked, Benchmark, Figures, Part, Protocol, Query
from datagen.evaluation.places import Places
from datagen.step import Settings

MEND = (
    "query.json and gallery.json: github.com/Delong-liu-bupt/Word4Per; images: Celeb-reID, PRCC "
    "and LAST beside them, as its img_process.py orders them"
)
IMAGES = 20_510
AT = (1, 5, 10)


class ItcprSettings(Settings):
    """images: the folder of Celeb-reID/, PRCC/ and LAST/, by default the data folder."""

    images: str = ""


class _Image(BaseModel):
    file_path: str
    instance_id: int


class _Row(_Image):
    caption: str


class Itcpr(Protocol[ItcprSettings]):
    name = "itcpr"
    about = "persons in other clothes; recall@1, 5, 10, mAP, mINP"
    paper = "arXiv:2311.16515"
    mend = MEND
    Settings = ItcprSettings

    def read(self, data: str) -> Benchmark:
        inner = ("", "Com_ReID/")
        path, listed = (
            _files.find(data, [f"{folder}{name}" for folder in inner], MEND)
            for name in ("query.json", "gallery.json")
        )
        rows, images = _files.json_rows(path, _Row), _files.json_rows(listed, _Image)
        folders = [self.settings.images or path.rpartition("/")[0]]
        media = _files.Media()
        pictures = {
            one.file_path: media.picture(folders, one.file_path, ".jpg") for one in (*images, *rows)
        }
        right: dict[int, dict[str, None]] = {}
        for one in images:
            if one.instance_id >= 0:
                right.setdefault(one.instance_id, {})[one.file_path] = None
        asked = []
        for number, row in enumerate(rows):
            if row.instance_id not in right:
                raise DatagenError(
                    f"{path}: entry {number}: no image of {listed} has its instance_id "
                    f"{row.instance_id}"
                )
            asked.append(Asked(number, tuple(right[row.instance_id])))
        queries = tuple(
            Query(str(number), (row.file_path,), (row.caption,)) for number, row in enumerate(rows)
        )
        gallery = tuple(dict.fromkeys(one.file_path for one in images))
        part = Part("gallery", gallery, tuple(asked), items=IMAGES)
        return Benchmark(queries, (part,), pictures, mend=MEND)

    def figures(self, part: Part, found: Places) -> Figures:
        out = {f"R@{k}": metrics.mean(metrics.recall(k), found.targets) for k in AT}
        out["mAP"] = metrics.mean(metrics.average_precision, found.targets)
        out["mINP"] = metrics.mean(metrics.inverse_negative_penalty, found.targets)
        return out
