"""Operators that paint by calling a pipeline of diffusers, one call for each sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import Field, model_validator

from datagen.edits._calls import Call, Kind, Loaded, Picture
from datagen.edits._painter import Painter, PaintSettings
from datagen.edits._pipelines import Named, PipelineSettings
from datagen.edits._samples import Painted, Range, Sample, caption_of
from datagen.edits._words import Template
from datagen.errors import DatagenError
from datagen.schema import Level

#: What a prompt may name, and what a row lacks where it is empty.
NAMES = {
    "reference": ("no_caption", "the reference has no caption"),
    "target": ("no_caption", "the target has no caption"),
    "modification": ("no_modification", "the row has no text"),
    "removed": ("no_change", "nothing is told that is removed"),
    "added": ("no_change", "nothing is told that is added"),
}
#: Settings that may be a range, and the numbers that they lie between.
_BOUNDS = {"guidance": (0.0, 100.0), "image_guidance": (0.0, 100.0), "strength": (0.0, 1.0)}


class ToldSettings(PaintSettings, PipelineSettings):
    """``guidance`` is a number, or a range [low, high] that every sample draws its own from."""

    #: What the pipeline is told: Jinja2, with ``reference``, ``target`` (captions),
    #: ``modification``, ``removed`` and ``added`` (what changes).
    prompt: str = Field("{{ target }}", min_length=1, max_length=4000)
    #: How strongly the prompt is followed; null: as the pipeline has it.
    guidance: Range | None = None

    @model_validator(mode="after")
    def _within(self) -> ToldSettings:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name, None)
            if value is None:
                continue
            low, high = value if isinstance(value, tuple) else (value, value)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name}: a number from {least:g} to {most:g}, or a range [low, high] expected"
                )
        return self


T = TypeVar("T", bound=ToldSettings)


class ToldPainter(Painter[T], Generic[T]):
    """A painter whose samples are calls of one pipeline."""

    #: What the pipeline does.
    kind: ClassVar[Kind]
    ranges: ClassVar[tuple[str, ...]] = ("guidance",)

    def __init__(self, settings: T) -> None:
        super().__init__(settings)
        told = {name: getattr(settings, name) for name in self.ranges}
        self.named = Named(settings, self.kind, told)
        self.template = Template(settings.prompt, list(NAMES))
        self._edge: int | None = None
        self._loaded: Loaded | None = None

    # ------------------------------------------------------------ what a subclass says

    @abstractmethod
    def call(self, sample: Sample) -> Call:
        """What the pipeline is told for a sample."""

    def came_of(self, sample: Sample, call: Call, picture: Picture) -> Painted:
        """The pictures of a sample, from the one that the pipeline painted."""
        return Painted(picture.pixels, unsafe=picture.unsafe, note={"prompt": call.prompt})

    # ------------------------------------------------------------ the contract

    def needs(self, level: Level) -> set[str]:
        captions = {"items.captions"} if self.template.asked & {"reference", "target"} else set()
        text = {"modification"} if "modification" in self.template.asked else set()
        return super().needs(level) | captions | text

    def weights(self) -> str:
        return self.named.revision()

    def check(self) -> Iterable[str]:
        yield from super().check()
        faults = list(self.named.faults())
        yield from faults
        try:
            _ = None if faults else self.size
        except DatagenError as error:
            yield str(error)

    def load(self) -> None:
        self._loaded = self.named.load()
        # One by one, nothing stands beside a sample; pictures of one row have one size.
        self.fills = self._loaded.alike
        self.by_row = not self._loaded.together

    def unfit(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        told = words(row)
        return next(
            (NAMES[one] for one in NAMES if one in self.template.asked and not told[one]), None
        )

    def paint(self, samples: Sequence[Sample]) -> list[Painted]:
        assert self._loaded is not None
        calls = [self.call(sample) for sample in samples]
        found = self._loaded(calls)
        return [self.came_of(*one) for one in zip(samples, calls, found, strict=True)]

    # ------------------------------------------------------------ of every call

    @property
    def size(self) -> int | tuple[int, int]:
        """Of the pictures that are painted; travels to the workers once known."""
        if self.settings.size is not None:
            return self.settings.size
        if self._edge is None:
            self._edge = self.named.edge()
        return self._edge

    def told(self, row: Mapping[str, Any]) -> str:
        """The prompt of a row."""
        return self.template(words(row))


def words(row: Mapping[str, Any]) -> dict[str, str]:
    """What a prompt may say of a row; empty where the row does not tell. An item is reference and
    target of itself.
    """
    changes = (row.get("evidence") or {}).get("changes") or []
    found = {
        "reference": caption_of(row, "references"),
        "target": caption_of(row, "targets"),
        "modification": row.get("modification"),
        "removed": ", ".join(one["removed"] for one in changes if one["removed"]),
        "added": ", ".join(one["added"] for one in changes if one["added"]),
    }
    return {name: (text or "").strip() for name, text in found.items()}
