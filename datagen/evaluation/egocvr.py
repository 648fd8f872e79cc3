"""EgoCVR: Hummel et al. 2024 (arXiv:2407.16658), 2,295 queries over clips of Ego4D.

Asked twice: of all clips (global, recall@1, 5, 10), and of the clips of the reference's own video
(local, recall@1, 2, 3). A query is a hit where any of its targets is. The galleries are those of
the official egocvr_annotations_gallery.csv; without it they are made of egocvr_data.csv as the
official page describes them: all other clips, and all other clips of the same video.
A query with none of its targets in its official gallery is a miss, as in the official code.
"""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field, field_validator

from datagen import store
from datagen.errors import DatagenError
from datagen.evaluation import _files, metrics
from datagen.evaluation.benchmark import Asked, Benchmark, Figures, Part, Protocol, Query
from datagen.evaluation.places import Places
from datagen.step import Settings

MEND = (
    "annotations, gallery file and clips (data/clips_nooverlap_fullscale/VIDEO/CLIP.mp4): "
    "github.com/ExplainableML/EgoCVR"
)
QUERIES = 2295
AT = {"global": (1, 5, 10), "local": (1, 2, 3)}
#: With fewer clips in its gallery a query is left out (official default).
LEAST = 2
#: The share of queries whose targets must lie in the galleries that a file names.
_SOUND = 0.5
#: The place of a target that is not in the gallery.
_NOWHERE = np.array([np.iinfo(np.int64).max])


class EgocvrSettings(Settings):
    """galleries: global, local, or both. text: the column that is asked with: ``instruction``,
    ``modified_captions`` (TF-CVR's rewritten captions) or ``target_clip_narration`` (an upper
    bound). clips: the folder of VIDEO/CLIP.mp4, by default data/clips_nooverlap_fullscale or
    clips_nooverlap_fullscale of the data folder.
    """

    galleries: tuple[Literal["global", "local"], ...] = Field(("global", "local"), min_length=1)
    text: Literal["instruction", "modified_captions", "target_clip_narration"] = "instruction"
    clips: str = ""


class _Clip(BaseModel):
    clip_name: str
    video_uid: str


def _listed(value: object) -> object:
    """A Python list of texts or numbers, as the files have it, without running it."""
    if isinstance(value, str):
        try:
            return json.loads(value.replace("'", '"'))
        except ValueError:
            return value
    return value


class _Row(BaseModel):
    video_clip_id: str
    target_clip_ids: list[str]
    instruction: str
    modified_captions: str
    target_clip_narration: str
    global_idx: list[int] | None = None
    local_idx: list[int] | None = None

    _lists = field_validator("target_clip_ids", "global_idx", "local_idx", mode="before")(_listed)


class Egocvr(Protocol[EgocvrSettings]):
    name = "egocvr"
    about = "clips of what a wearer does, small actions; recall in all clips and in one video"
    paper = "arXiv:2407.16658"
    mend = MEND
    Settings = EgocvrSettings

    def read(self, data: str) -> Benchmark:
        usual = ("annotation/egocvr", "egocvr", "")
        notes = []
        lists = [store.join(f, "egocvr_annotations_gallery.csv").lstrip("/") for f in usual]
        listed = any(store.exists(store.join(data, path)) for path in lists)
        if not listed:
            lists = [path.replace("_gallery", "") for path in lists]
            notes.append(
                "galleries made of egocvr_data.csv; the official lists are in "
                "egocvr_annotations_gallery.csv, which is not there"
            )
        path = _files.find(data, lists, MEND)
        rows = _files.csv_rows(path, _Row)
        clips = _files.csv_rows(
            _files.find(data, [store.join(f, "egocvr_data.csv").lstrip("/") for f in usual], MEND),
            _Clip,
        )
        videos = {clip.clip_name: clip.video_uid for clip in clips}
        _files.known(
            [name for row in rows for name in (row.video_clip_id, *row.target_clip_ids)],
            videos,
            path,
        )
        inner = ("data/clips_nooverlap_fullscale", "clips_nooverlap_fullscale")
        folders = (
            [self.settings.clips]
            if self.settings.clips
            else [store.join(data, one) for one in inner]
        )
        media = _files.Media()
        pictures = {
            name: media.picture(folders, f"{video}/{name}", ".mp4")
            for name, video in videos.items()
        }
        order = [clip.clip_name for clip in clips]
        parts = tuple(
            self._part(kind, rows, order, videos, listed, path, notes)
            for kind in dict.fromkeys(self.settings.galleries)
        )
        queries = tuple(
            Query(str(number), (row.video_clip_id,), (getattr(row, self.settings.text).strip(),))
            for number, row in enumerate(rows)
        )
        return Benchmark(queries, parts, pictures, tuple(notes), MEND)

    def _part(
        self,
        kind: str,
        rows: list[_Row],
        order: list[str],
        videos: dict[str, str],
        listed: bool,
        path: str,
        notes: list[str],
    ) -> Part:
        of_video: dict[str, list[str]] = {}
        for name, video in videos.items():
            of_video.setdefault(video, []).append(name)
        asked, away, missed = [], 0, 0
        for number, row in enumerate(rows):
            own: tuple[str, ...] = (row.video_clip_id,)
            among: tuple[str, ...] | None
            if listed:
                among = _named(getattr(row, f"{kind}_idx"), order, path, number)
                own = ()
            elif kind == "local":
                among = tuple(of_video[videos[row.video_clip_id]])
            else:
                among = None
            seen = set(videos if among is None else among).difference(own)
            targets = tuple(name for name in dict.fromkeys(row.target_clip_ids) if name in seen)
            if len(seen) < LEAST or not (targets or listed):
                away += 1
                continue
            missed += not targets
            asked.append(Asked(number, targets, own, among))
        without = missed if listed else away
        if without > len(rows) * (1 - _SOUND):
            raise DatagenError(
                f"{path}: {without:,} of {len(rows):,} queries have no target in their {kind} "
                "gallery; egocvr_data.csv must be the file that it was made with"
            )
        if away:
            none = "" if listed else " or none of their targets"
            notes.append(
                f"{kind}: {away:,} queries left out, whose gallery has fewer than {LEAST} "
                f"clips{none}"
            )
        if missed:
            notes.append(
                f"{kind}: {missed:,} queries are misses, whose official gallery has none of their "
                "targets (official rule)"
            )
        return Part(kind, tuple(videos), tuple(asked), max(0, QUERIES - away))

    def figures(self, part: Part, found: Places) -> Figures:
        targets = [one if len(one) else _NOWHERE for one in found.targets]
        return {f"R@{k}": metrics.mean(metrics.recall(k), targets) for k in AT[part.name]}


def _named(rows: list[int] | None, order: list[str], path: str, number: int) -> tuple[str, ...]:
    """Names of the clips in ``rows`` of egocvr_data.csv; one that it lists twice counts once."""
    if rows is None or any(not 0 <= row < len(order) for row in rows):
        raise DatagenError(
            f"{path}: row {number + 1}: global_idx and local_idx must be rows of egocvr_data.csv "
            f"(0 to {len(order) - 1:,})"
        )
    return tuple(dict.fromkeys(order[row] for row in rows))
