"""CIRR: Liu et al. 2021 (arXiv:2108.04024), images of NLVR2.

Every image of the split is in the gallery, the query's reference is not; Recall_subset ranks the
other five images of the reference's own set. Answers to test1 are known to the server alone: two
files for it are written, the first 50 and the first 3 of the subset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from datagen import store
from datagen.errors import DatagenError
from datagen.evaluation import _files, metrics
from datagen.evaluation.benchmark import Asked, Benchmark, Figures, Part, Protocol, Query
from datagen.evaluation.places import Places
from datagen.step import Settings

MEND = (
    "annotations: github.com/Cuberick-Orion/CIRR (branch cirr_dataset); images: NLVR2's, asked for "
    "as its repository says, with dev/, test1/ beside cirr/"
)
#: Queries and images of each split.
SIZES = {"val": (4181, 2297), "test1": (4148, 2315)}
ALL, SUBSET = "gallery", "subset"


class CirrSettings(Settings):
    """split: val or test1 (whose answers are with the server). exclude_reference: leave the
    reference out of the gallery, as the server and all papers do. images: the folder of dev/ and
    test1/, by default the data folder, or img_raw/ or cirr/img_raw/ of it.
    """

    split: Literal["val", "test1"] = "val"
    exclude_reference: bool = True
    images: str = ""


class _Set(BaseModel):
    members: list[str]


class _Row(BaseModel):
    pairid: int
    reference: str
    caption: str
    img_set: _Set
    target_hard: str | None = None


class Cirr(Protocol[CirrSettings]):
    name = "cirr"
    about = "open-domain photos, one target; recall, and recall in sets of six"
    paper = "arXiv:2108.04024"
    mend = MEND
    Settings = CirrSettings

    def read(self, data: str) -> Benchmark:
        split = self.settings.split
        captions, listed = (
            _files.find(data, [f"cirr/{path}", path], MEND)
            for path in (f"captions/cap.rc2.{split}.json", f"image_splits/split.rc2.{split}.json")
        )
        rows = _files.json_rows(captions, _Row)
        paths = store.read_json(listed)
        if not isinstance(paths, dict) or not all(isinstance(one, str) for one in paths.values()):
            raise DatagenError(f"{listed}: an object of image name: path expected")
        named = [name for row in rows for name in (row.reference, *row.img_set.members)]
        named += [row.target_hard for row in rows if row.target_hard]
        _files.known(named, paths, captions)
        media = _files.Media()
        usual = [data, *(store.join(data, inner) for inner in ("img_raw", "cirr/img_raw"))]
        folders = [self.settings.images] if self.settings.images else usual
        pictures = {
            name: media.picture(folders, path.removeprefix("./"), ".png")
            for name, path in paths.items()
        }
        queries, items = SIZES[split]
        asked = [self._asked(number, row, None) for number, row in enumerate(rows)]
        own = [
            self._asked(number, row, tuple(row.img_set.members)) for number, row in enumerate(rows)
        ]
        gallery = tuple(pictures)
        return Benchmark(
            tuple(Query(str(row.pairid), (row.reference,), (row.caption,)) for row in rows),
            (
                Part(ALL, gallery, tuple(asked), queries, items, top=50),
                Part(SUBSET, gallery, tuple(own), queries, items, whole_lists=True, top=3),
            ),
            pictures,
            mend=MEND,
        )

    def _asked(self, number: int, row: _Row, among: tuple[str, ...] | None) -> Asked:
        targets = (row.target_hard,) if row.target_hard else ()
        # The subset is told without the reference whatever the gallery's rule.
        hidden = self.settings.exclude_reference or among is not None
        return Asked(number, targets, (row.reference,) if hidden else (), among)

    def figures(self, part: Part, found: Places) -> Figures:
        if part.name == SUBSET:
            return {f"Rs@{k}": metrics.mean(metrics.recall(k), found.targets) for k in (1, 2, 3)}
        return {f"R@{k}": metrics.mean(metrics.recall(k), found.targets) for k in (1, 5, 10, 50)}

    def summary(self, figures: Mapping[str, Figures]) -> dict[str, Figures]:
        if not figures.get(ALL) or not figures.get(SUBSET):
            return {}
        return {"mean": {"R@5, Rs@1": (figures[ALL]["R@5"] + figures[SUBSET]["Rs@1"]) / 2}}

    def submissions(self, benchmark: Benchmark, found: Sequence[Places]) -> dict[str, Any]:
        if self.settings.split != "test1":
            return {}
        files = {}
        for part, ranked, metric in zip(
            benchmark.parts, found, ("recall", "recall_subset"), strict=True
        ):
            answers = {
                benchmark.queries[one.query].id: [part.gallery[row] for row in first]
                for one, first in zip(part.asked, ranked.first, strict=True)
            }
            files[f"cirr_test1_{metric}.json"] = {"version": "rc2", "metric": metric, **answers}
        return files
