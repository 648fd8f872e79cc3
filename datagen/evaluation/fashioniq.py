"""FashionIQ: Wu et al. 2021 (arXiv:1905.12794), product photos of dresses, shirts and tops.

Papers differ in the gallery and in how the two captions of a query become one text; both are
settings here. The reference stays in the gallery, as in the challenge and in CLIP4Cir and SEARLE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from datagen import store
from datagen.evaluation import _files, metrics
from datagen.evaluation.benchmark import Asked, Benchmark, Figures, Part, Protocol, Query
from datagen.evaluation.places import Places
from datagen.step import Settings

MEND = (
    "captions and image_splits: github.com/XiaoxiaoGuo/fashion-iq; images: the addresses in "
    "github.com/hongwang600/fashion-iq-metadata, as images/NAME.jpg"
)
#: A name of a category; collections of one's own in this format have others.
Category = Annotated[str, StringConstraints(pattern=r"^[\w-]+$")]
CATEGORIES: tuple[str, ...] = ("dress", "shirt", "toptee")
#: Queries of the split val, and images of both galleries.
SIZES = {"dress": (2017, 3817, 2628), "shirt": (2038, 6346, 3089), "toptee": (1961, 5373, 2902)}
AT = (10, 50)
#: What CLIP4Cir and SEARLE strip from captions before they join them.
STRIPPED = ".?, "


class FashionIQSettings(Settings):
    """categories: those that are measured, each in a gallery of its own. gallery: ``original``,
    all images of the category's split, or ``val``, those that queries have as reference or target
    (VAL, Chen et al. 2020). order: which caption comes first: ``forward``, ``reversed``, or
    ``both``, the mean of the two queries (SEARLE). joiner: what stands between them; punctuation
    at their ends goes. exclude_reference: leave the reference out of the gallery. images: the
    folder of the images, by default images/ of the data folder.
    """

    categories: tuple[Category, ...] = Field(CATEGORIES, min_length=1)
    gallery: Literal["original", "val"] = "original"
    order: Literal["forward", "reversed", "both"] = "forward"
    joiner: str = " and "
    exclude_reference: bool = False
    images: str = ""


class _Row(BaseModel):
    candidate: str
    target: str
    captions: list[str] = Field(min_length=1)


class FashionIQ(Protocol[FashionIQSettings]):
    name = "fashioniq"
    about = "product photos in three categories; recall@10 and 50, and their means"
    paper = "arXiv:1905.12794"
    mend = MEND
    Settings = FashionIQSettings

    def read(self, data: str) -> Benchmark:
        media = _files.Media()
        folders = [self.settings.images or store.join(data, "images")]
        queries: list[Query] = []
        parts = []
        pictures = {}
        for category in dict.fromkeys(self.settings.categories):
            captions = _files.find(data, [f"captions/cap.{category}.val.json"], MEND)
            rows = _files.json_rows(captions, _Row)
            gallery = [name for row in rows for name in (row.candidate, row.target)]
            if self.settings.gallery == "original":
                listed = f"image_splits/split.{category}.val.json"
                names = _files.json_names(_files.find(data, [listed], MEND))
                _files.known(gallery, names, captions)
                gallery = names
            gallery = list(dict.fromkeys(gallery))
            asked = []
            for number, row in enumerate(rows):
                hidden = (row.candidate,) if self.settings.exclude_reference else ()
                asked.append(Asked(len(queries), (row.target,), hidden))
                name = f"{category}-{number}"
                queries.append(Query(name, (row.candidate,), self._texts(row.captions)))
            count, original, val = SIZES.get(category, (0, 0, 0))
            items = original if self.settings.gallery == "original" else val
            parts.append(Part(category, tuple(gallery), tuple(asked), count, items))
            pictures.update({name: media.picture(folders, name, ".jpg") for name in gallery})
        return Benchmark(tuple(queries), tuple(parts), pictures, mend=MEND)

    def _texts(self, captions: list[str]) -> tuple[str, ...]:
        clean = [caption.strip().strip(STRIPPED) for caption in captions]
        orders = {
            "forward": [clean],
            "reversed": [clean[::-1]],
            "both": [clean, clean[::-1]],
        }[self.settings.order]
        return tuple(self.settings.joiner.join(order) for order in orders)

    def figures(self, part: Part, found: Places) -> Figures:
        return {f"R@{k}": metrics.mean(metrics.recall(k), found.targets) for k in AT}

    def summary(self, figures: Mapping[str, Figures]) -> dict[str, Figures]:
        if len(figures) < 2:
            return {}
        means = {
            f"R@{k}": sum(one[f"R@{k}"] for one in figures.values()) / len(figures) for k in AT
        }
        whole = set(figures) == set(CATEGORIES)
        name = "mean" if whole else f"mean of {' and '.join(figures)}"
        return {name: {**means, "R@10, R@50": sum(means.values()) / len(AT)}}
