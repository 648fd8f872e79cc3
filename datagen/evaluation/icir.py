"""i-CIR: Psomas et al. 2025 (arXiv:2510.25387), instances of one object in 202 databases.

A query sees the database of its own instance. Right are the images of that instance and text. The
official average precision is that of the trapezoidal rule; its mean is told over queries, and over
instances (macro), so that instances with many queries weigh no more.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from datagen import store
from datagen.errors import DatagenError
from datagen.evaluation import _files, metrics
from datagen.evaluation.benchmark import Asked, Benchmark, Figures, Part, Protocol, Query
from datagen.evaluation.places import Places
from datagen.step import Settings

MEND = "icir_v1.0.0.tar.gz, unpacked: github.com/billpsomas/icir"
QUERIES = 1883
COLUMNS = ("image", "text", "instance")


class IcirSettings(Settings):
    """precision: ``trapezoid``, the official average precision, or ``plain``. images: the folder
    that the paths of both lists begin in, by default the data folder or the one above it.
    """

    precision: Literal["trapezoid", "plain"] = "trapezoid"
    images: str = ""


class _Row(BaseModel):
    image: str
    text: str
    instance: str


class Icir(Protocol[IcirSettings]):
    name = "icir"
    about = "particular objects, hard negatives, several targets; mAP and macro mAP"
    paper = "arXiv:2510.25387"
    mend = MEND
    Settings = IcirSettings

    def read(self, data: str) -> Benchmark:
        lists = {}
        for name in ("query_files.csv", "database_files.csv"):
            path = _files.find(data, [name, f"annotations/{name}"], MEND)
            lists[name] = path, _files.csv_rows(path, _Row, COLUMNS)
        path, asking = lists["query_files.csv"]
        _, database = lists["database_files.csv"]
        whole = store.local_path(data) if store.is_local(data) else data
        above = whole.rstrip("/").rpartition("/")[0]
        folders = [self.settings.images] if self.settings.images else [data, above]
        media = _files.Media()
        pictures = {
            row.image: media.picture(folders, row.image, ".jpg") for row in (*asking, *database)
        }
        of_instance: dict[str, dict[str, None]] = {}
        right: dict[tuple[str, str], dict[str, None]] = {}
        for row in database:
            of_instance.setdefault(row.instance, {})[row.image] = None
            right.setdefault((row.instance, row.text), {})[row.image] = None
        # One tuple for all queries of an instance: its vectors are gathered once.
        among = {instance: tuple(images) for instance, images in of_instance.items()}
        targets = {key: tuple(images) for key, images in right.items()}
        asked = []
        for number, row in sorted(enumerate(asking), key=lambda one: one[1].instance):
            if (row.instance, row.text) not in targets:
                raise DatagenError(
                    f"{path}: row {number + 1}: the database has no image of instance "
                    f"'{_files.printable(row.instance)}' with the text "
                    f"'{_files.printable(row.text)}'"
                )
            asked.append(
                Asked(
                    number,
                    targets[row.instance, row.text],
                    (),
                    among[row.instance],
                    (row.instance,),
                )
            )
        queries = tuple(
            Query(str(number), (row.image,), (row.text,)) for number, row in enumerate(asking)
        )
        gallery = tuple(dict.fromkeys(row.image for row in database))
        return Benchmark(
            queries, (Part("all", gallery, tuple(asked), QUERIES),), pictures, (), MEND
        )

    def figures(self, part: Part, found: Places) -> Figures:
        trapezoid = self.settings.precision == "trapezoid"
        metric = metrics.average_precision_trapezoid if trapezoid else metrics.average_precision
        groups = [one.groups for one in part.asked]
        return {
            "mAP": metrics.mean(metric, found.targets),
            "macro mAP": metrics.macro(metric, found.targets, groups),
        }
