"""Captioned scenes of simple shapes, rendered from a seed, whose truth is known.

``scene`` says what a scene is, ``captions`` tells it, ``render`` draws it, and ``oracle`` judges
what others make of it: modification texts, captions and pictures. ``events`` and ``film`` do the
same for clips: scenes in which something happens.
"""

from __future__ import annotations

import tarfile
from typing import IO, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from datagen import schema, store
from datagen.errors import DatagenError
from datagen.schema import Level
from datagen.sources.tinyworld.captions import FRAMES, Noise, captions
from datagen.sources.tinyworld.family import Drawn, drawn
from datagen.sources.tinyworld.film import encode_clip, film
from datagen.sources.tinyworld.render import encode, picture
from datagen.step import Context, Settings, Source

#: Scenes per shard.
CHUNK = 200


class TinyWorldSettings(Settings):
    """Settings of :class:`TinyWorld`.

    count: scenes; a larger world starts with the scenes of the smaller one.
    seed: of the world; the run's seed by default.
    size: width and height in pixels. format: of the image files.
    captions_per_item: 1-3, each phrased in another way.
    neighbours: share of scenes that change one attribute of an earlier scene (at most 15/16 can
        be had), told in the same words but for that attribute.
    same_layout: whether such a scene keeps the small shifts and turns of the one it changes;
        light and tones differ in any case.
    jitter: scale of all these accidents; 0 draws equal scenes alike.
    max_objects: things a scene has at most, 1-4; each may be a group of up to four.
    clips: share of scenes that are clips: a scene and one event (a thing moves, grows, shrinks,
        turns another colour or pattern, becomes more or fewer, spins, vanishes, appears, or the
        background changes). Their files are mp4 (H.264); which scenes they are follows from seed
        and index. frames: of a clip. fps: frames a second.
    omit, misname, contradict: shares of captions that leave out an attribute, get one wrong, or
        tell another count, a thing that is not there or swapped colours. Labels tell which.
    """

    count: int = Field(1000, ge=1, le=100_000_000)
    seed: int | None = None
    size: int = Field(96, ge=32, le=1024)
    format: Literal["png", "jpeg", "webp"] = "png"
    captions_per_item: int = Field(1, ge=1, le=min(3, len(FRAMES)))
    neighbours: float = Field(0.6, ge=0, le=1)
    same_layout: bool = True
    jitter: float = Field(1.0, ge=0, le=1.5)
    max_objects: int = Field(3, ge=1, le=4)
    clips: float = Field(0.0, ge=0, le=1)
    frames: int = Field(12, ge=4, le=240)
    fps: int = Field(8, ge=1, le=60)
    omit: float = Field(0.0, ge=0, le=1)
    misname: float = Field(0.0, ge=0, le=1)
    contradict: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _shares(self) -> TinyWorldSettings:
        if self.omit + self.misname + self.contradict > 1 + 1e-9:
            raise ValueError("omit, misname and contradict: shares that are at most 1 in all")
        if self.clips and self.size % 2:
            raise ValueError("size: an even number of pixels where there are clips (H.264)")
        return self


class TinyWorld(Source[TinyWorldSettings]):
    """Renders scenes into tar shards under the run's media folder; see :class:`TinyWorldSettings`.

    Labels are the scene (``objects`` with shape, colour, size, texture, count and position, and
    ``background``), ``seed`` and ``index``, ``base`` (the index of the scene that this one
    changes, or null) with ``changed`` (the attribute, or "event"), and ``noise``: null, or one
    entry per caption, null or a note of what is wrong with it (see :func:`noise.told`).
    In a world with clips there is also ``event``: null for an image, else ``kind``, ``thing``
    (place among ``objects``, null for the background), ``from`` and ``to``; the scene is then that
    of the first frame (see :meth:`events.Clip.graph`).
    """

    Settings = TinyWorldSettings

    def gives(self, level: Level) -> set[str]:
        return {"items.media", "items.captions", "items.labels"}

    def parts(self, context: Context) -> list[dict[str, Any]]:
        count = self.settings.count
        return [
            {"start": start, "stop": min(start + CHUNK, count)} for start in range(0, count, CHUNK)
        ]

    def read(self, part: dict[str, Any], context: Context) -> pa.Table:
        """Render scenes ``start`` to ``stop`` into one shard, and list them.

        The shard has the same bytes every time, so a repeated part replaces it by itself.
        """
        if not context.media_dir:
            raise DatagenError("tinyworld: renders its media, so the run needs a media folder")
        seed = context.seed if self.settings.seed is None else self.settings.seed
        start, stop = part["start"], part["stop"]
        name = f"tinyworld-{seed}-{start:08d}-{stop:08d}-{self._stamp(seed)}.tar"
        path = store.join(context.media_dir, name)
        records = []
        with store.writing(path) as file:
            position = 0
            for index in range(start, stop):
                scene = drawn(
                    seed,
                    index,
                    neighbours=self.settings.neighbours,
                    max_objects=self.settings.max_objects,
                    clips=self.settings.clips,
                )
                data = self._data(scene, seed)
                form = "mp4" if scene.clip else self.settings.format
                position += _add_header(file, f"{index:08d}.{form}", len(data))
                modality = "video" if scene.clip else "image"
                media = {"path": path, "offset": position, "size": len(data), "modality": modality}
                position += file.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
                records.append(self._record(scene, seed, media))
            tail = position + 2 * tarfile.BLOCKSIZE
            file.write(bytes(2 * tarfile.BLOCKSIZE + -tail % tarfile.RECORDSIZE))
        return pa.Table.from_pylist(records, schema=schema.RECORD)

    def _stamp(self, seed: int) -> str:
        """What identifies the pixels of a scene, beside its index."""
        told: tuple[str, ...] = (
            "size", "format", "neighbours", "same_layout", "jitter", "max_objects"
        )  # fmt: skip
        told += ("clips", "frames", "fps") if self.settings.clips else ()
        values = {name: getattr(self.settings, name) for name in told}
        text = schema.canonical_json({**values, "seed": seed, "version": self.version})
        return schema.content_id("tinyworld", text)[:10]

    def _data(self, scene: Drawn, seed: int) -> bytes:
        """The file of an image or clip."""
        chosen = self.settings
        if scene.clip:
            pictures = film(
                scene, seed, chosen.size, chosen.frames,
                same_layout=chosen.same_layout, jitter=chosen.jitter,
            )  # fmt: skip
            return encode_clip(pictures, chosen.fps)
        image = picture(
            scene, seed, chosen.size, same_layout=chosen.same_layout, jitter=chosen.jitter
        )
        return encode(image, chosen.format)

    def _record(self, scene: Drawn, seed: int, media: dict[str, Any]) -> dict[str, Any]:
        chosen = self.settings
        noise = Noise(chosen.omit, chosen.misname, chosen.contradict)
        texts, notes = captions(scene, seed, chosen.captions_per_item, noise)
        labels = {
            **scene.shown.graph(),
            "seed": seed,
            "index": scene.index,
            "base": scene.base,
            "changed": scene.changed,
            "noise": {"captions": notes} if any(notes) else None,
        }
        if chosen.clips:
            labels.setdefault("event", None)
        return {
            "key": f"tinyworld/{seed}/{scene.index:08d}",
            "media": media,
            "captions": texts,
            "labels": schema.canonical_json(labels),
            "verdict": schema.KEPT,
        }


def _add_header(file: IO[bytes], name: str, size: int) -> int:
    """Write the header of a tar member that names no owner, host or time; its length."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return file.write(info.tobuf(tarfile.USTAR_FORMAT))
