"""PatternCom: Psomas et al. 2024 (arXiv:2405.15587), attributes of aerial images of PatternNet.

An image whose object has one value of an attribute (a rectangular pool) is asked for each other
value that the attribute has for that class (oval). Right are the images of the class with that
value, in the gallery of all of PatternNet; the query image stays in it. Classes that differ by
name alone are one, as in the official code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field

from datagen import store
from datagen.errors import DatagenError
from datagen.evaluation import _files, metrics
from datagen.evaluation.benchmark import Asked, Benchmark, Figures, Part, Picture, Protocol, Query
from datagen.evaluation.places import Places
from datagen.step import Settings

MEND = (
    "PatternNet (images/CLASS/NAME.jpg) and PatternCom/*.csv: the links of "
    "github.com/billpsomas/rscir"
)
Attribute = Literal["color", "context", "density", "existence", "quantity", "shape"]
ATTRIBUTES: tuple[Attribute, ...] = (
    "color",
    "context",
    "density",
    "existence",
    "quantity",
    "shape",
)
#: Images of PatternNet: 38 classes of 800.
IMAGES = 30_400
COLUMNS = ("image", "attribute", "value")
#: Classes that count as one where answers are judged.
SAME = {
    "denseresidential": "residential",
    "sparseresidential": "residential",
    "closedroad": "road",
    "intersection": "road",
    "bridge": "roadpass",
    "overpass": "roadpass",
    "ferryterminal": "pier",
    "harbor": "pier",
    "parkingspace": "parking",
    "parkinglot": "parking",
}
#: Those of them that share their values, by attribute: what a query is asked for.
SHARED = {
    "density": ("denseresidential", "sparseresidential"),
    "shape": ("closedroad", "intersection"),
    "context": ("bridge", "overpass"),
    "existence": ("ferryterminal", "harbor", "parkingspace", "parkinglot"),
}


class PatterncomSettings(Settings):
    """attributes: those that are measured. images: the folder of the classes' folders, by default
    images/ of the data folder.
    """

    attributes: tuple[Attribute, ...] = Field(ATTRIBUTES, min_length=1)
    images: str = ""


class _Row(BaseModel):
    image: str
    attribute: str
    value: str


class Patterncom(Protocol[PatterncomSettings]):
    name = "patterncom"
    about = "aerial images, another value of an attribute, many targets; mAP by attribute"
    paper = "arXiv:2405.15587"
    mend = MEND
    Settings = PatterncomSettings

    def read(self, data: str) -> Benchmark:
        root = self.settings.images or store.join(data, "images")
        media = _files.Media()
        pictures = {}
        for folder in store.names(root):
            for name in store.names(store.join(root, folder)):
                if name.lower().endswith(_files.IMAGES):
                    pictures[name] = media.picture([store.join(root, folder)], name, "")
        if not pictures:
            raise DatagenError(f"{root}: no images in folders of classes; {MEND}")
        gallery = tuple(pictures)
        queries: list[Query] = []
        parts = []
        for attribute in dict.fromkeys(self.settings.attributes):
            inner = f"PatternCom/{attribute}.csv"
            path = _files.find(data, [inner, f"{attribute}.csv"], MEND)
            rows = _files.csv_rows(path, _Row, COLUMNS)
            asked = _asked(attribute, rows, queries)
            for row in rows:
                if row.image not in pictures:
                    expected = store.join(root, _class(row.image), row.image)
                    pictures[row.image] = Picture(expected, there=False)
            parts.append(Part(attribute, gallery, asked, items=IMAGES))
        # What the lists name belongs to every gallery, there or not.
        whole = tuple(pictures)
        parts = [Part(one.name, whole, one.asked, items=one.items) for one in parts]
        return Benchmark(tuple(queries), tuple(parts), pictures, (), MEND)

    def figures(self, part: Part, found: Places) -> Figures:
        return {"mAP": metrics.mean(metrics.average_precision, found.targets)}

    def summary(self, figures: Mapping[str, Figures]) -> dict[str, Figures]:
        if len(figures) < 2:
            return {}
        name = "mean" if len(figures) == len(ATTRIBUTES) else f"mean of {', '.join(figures)}"
        return {name: {"mAP": sum(one["mAP"] for one in figures.values()) / len(figures)}}


def _class(image: str) -> str:
    """The class that stands before the number in an image's name."""
    return re.split(r"\d", image, maxsplit=1)[0]


def _asked(attribute: str, rows: list[_Row], queries: list[Query]) -> tuple[Asked, ...]:
    """The queries of one attribute, which are added to ``queries`` too."""
    values: dict[tuple[str, str], dict[str, None]] = {}
    right: dict[tuple[str, str], dict[str, None]] = {}
    # An image that is listed twice has its last value, as in the official code.
    last = {row.image: row.value for row in rows}
    for row in rows:
        values.setdefault(_group(attribute, row), {})[row.value] = None
    for image, value in last.items():
        right.setdefault((SAME.get(_class(image), _class(image)), value), {})[image] = None
    targets = {key: tuple(images) for key, images in right.items()}
    asked = []
    for row in rows:
        kind = SAME.get(_class(row.image), _class(row.image))
        for value in values[_group(attribute, row)]:
            found = targets.get((kind, value), ())
            if value != row.value and found:
                asked.append(Asked(len(queries), found))
                queries.append(Query(f"{attribute}-{len(queries)}", (row.image,), (value,)))
    return tuple(asked)


def _group(attribute: str, row: _Row) -> tuple[str, str]:
    """What shares its values with ``row``: an attribute of a class, or of several that are one."""
    kind = _class(row.image)
    merged = SAME[kind] if kind in SHARED.get(attribute, ()) else kind
    return row.attribute, merged
