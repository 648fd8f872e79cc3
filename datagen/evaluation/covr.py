"""WebVid-CoVR test: Ventura et al. 2024 (arXiv:2308.14746), 2,556 queries over clips of WebVid.

The gallery is the targets of all queries, without the query's own reference. A target's vector
is that of its frames weighted by how near they are to its caption, as in the released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel

from datagen import store
from datagen.evaluation import _files, metrics
from datagen.evaluation.benchmark import Asked, Benchmark, Figures, Part, Protocol, Query
from datagen.evaluation.places import Places
from datagen.step import Settings

MEND = (
    "webvid8m-covr_test.csv: tools/scripts/download_annotation_covr.sh of "
    "github.com/lucas-ventura/CoVR; clips: tools/scripts/download_covr.py there, as FOLDER/ID.mp4"
)
QUERIES = 2556
AT = (1, 5, 10, 50)


class CovrSettings(Settings):
    """file: the annotations below the data folder. clips: the folder of FOLDER/ID.mp4, by default
    datasets/WebVid/8M/train, WebVid/8M/train, clips or the data folder itself. pool: frames of a
    target weighted by its ``caption``, or their plain ``mean``. exclude_reference: leave the
    reference out of the gallery.
    """

    file: str = ""
    clips: str = ""
    pool: Literal["caption", "mean"] = "caption"
    exclude_reference: bool = True


class _Row(BaseModel):
    pth1: str
    pth2: str
    txt2: str = ""
    edit: str


class Covr(Protocol[CovrSettings]):
    name = "covr"
    about = "web clips, one target; recall@1, 5, 10, 50 and their mean"
    paper = "arXiv:2308.14746"
    mend = MEND
    Settings = CovrSettings

    def read(self, data: str) -> Benchmark:
        usual = "webvid8m-covr_test.csv"
        choices = [self.settings.file] if self.settings.file else [f"annotation/{usual}", usual]
        if not self.settings.file:
            choices.insert(0, f"annotation/webvid-covr/{usual}")
        rows = _files.csv_rows(_files.find(data, choices, MEND), _Row)
        own = ["datasets/WebVid/8M/train", "WebVid/8M/train", "clips", ""]
        folders = (
            [self.settings.clips]
            if self.settings.clips
            else [store.join(data, inner) if inner else data for inner in own]
        )
        media = _files.Media()
        weighted = self.settings.pool == "caption"
        pictures = {row.pth1: media.picture(folders, row.pth1, ".mp4") for row in rows}
        gallery: dict[str, None] = {}
        asked = []
        for number, row in enumerate(rows):
            # A clip that is a reference too is looked at as a target with its caption.
            target = f"target {row.pth2}"
            text = (row.txt2.strip() or None) if weighted else None
            pictures.setdefault(target, media.picture(folders, row.pth2, ".mp4", text=text))
            gallery[target] = None
            hidden = (f"target {row.pth1}",) if self.settings.exclude_reference else ()
            asked.append(Asked(number, (target,), hidden))
        queries = tuple(
            Query(str(number), (row.pth1,), (row.edit,)) for number, row in enumerate(rows)
        )
        part = Part("gallery", tuple(gallery), tuple(asked), QUERIES, QUERIES)
        return Benchmark(queries, (part,), pictures, mend=MEND)

    def figures(self, part: Part, found: Places) -> Figures:
        return {f"R@{k}": metrics.mean(metrics.recall(k), found.targets) for k in AT}

    def summary(self, figures: Mapping[str, Figures]) -> dict[str, Figures]:
        (one,) = figures.values()
        return {"mean": {"R@1, 5, 10, 50": sum(one.values()) / len(one)}}
