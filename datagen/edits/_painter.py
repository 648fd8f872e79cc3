"""What operators that paint pictures have in common: samples, seeds, batches, faults, files.

A subclass says what is painted for a sample (:meth:`Painter.paint`) and of which rows nothing can
be painted (:meth:`Painter.unfit`). Every picture follows from its row's id, the run's seed and its
number alone: neither batches nor workers show in it.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa
from PIL import Image
from pydantic import Field, model_validator

from datagen import clip, models, schema, store
from datagen.edits import _references
from datagen.edits._best import SCORES, Best, KeepSettings
from datagen.edits._lines import ANSWER, line
from datagen.edits._samples import (
    Array,
    Painted,
    Sample,
    as_image,
    caption_of,
    drawn,
    fault_of,
    new_member,
)
from datagen.errors import DatagenError
from datagen.painted import Format, Stage, intact
from datagen.schema import Level
from datagen.step import Context, Resources, RowOperator, Settings


class PaintSettings(Settings):
    """Settings of every operator that paints."""

    #: Pictures that are painted for a row.
    samples: int = Field(1, ge=1, le=1000)
    #: Which of them are kept, by scores of CLIP; null: all.
    keep: KeepSettings | None = None
    #: Pictures of one forward pass.
    batch_size: int = Field(8, ge=1, le=1024)
    #: Of the files: webp, png, jpeg.
    format: Format = "webp"
    #: Of webp and jpeg; 100 is webp without loss.
    quality: int = Field(95, ge=1, le=100)

    @model_validator(mode="after")
    def _fewer(self) -> PaintSettings:
        if self.keep is not None and self.keep.count > self.samples:
            raise ValueError(
                f"keep.count ({self.keep.count}) is more than samples ({self.samples})"
            )
        return self


S = TypeVar("S", bound=PaintSettings)


class Painter(RowOperator[S], Generic[S]):
    """Rows to rows whose members are painted. ``paint`` is called with a batch of samples.

    A row is rejected by what ``unfit`` says, and, where samples are chosen, as ``low_SCORE`` or
    ``not_best``. It fails as ``black_picture``, ``not_finite``, ``unsafe_picture`` (the pipeline's
    own checker) or ``out_of_memory`` where no sample of it is any good; beside good ones such
    samples are counted.
    """

    levels: ClassVar[tuple[Level, ...]] = ("pairs", "triplets")
    makes = True
    paints = True
    requires: ClassVar[tuple[tuple[str, str], ...]] = (
        ("torch", "diffusion"),
        ("diffusers", "diffusion"),
    )
    #: Settings that are a number or a range.
    ranges: ClassVar[tuple[str, ...]] = ()
    #: Whether samples hold the picture of the first reference.
    reads_picture: ClassVar[bool] = False
    #: Whether batches are filled up, so that kernels are the same whatever stands beside a sample.
    fills: bool = True
    #: Whether a batch has samples of one row alone: as many as fit, or as the row has.
    by_row: bool = False
    #: Whether rows are done one after another, so that the pictures of few are held at once.
    singly: ClassVar[bool] = False

    def __init__(self, settings: S) -> None:
        super().__init__(settings)
        self.best = Best(settings.keep) if settings.keep else None
        self._context = Context()
        self._room = settings.batch_size

    # ------------------------------------------------------------ what a subclass says

    @abstractmethod
    def paint(self, samples: Sequence[Sample]) -> list[Painted]:
        """What comes of ``samples``, ``batch_size`` of them where the operator ``fills``."""

    def unfit(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """The rule and detail that reject a row before anything is painted."""
        return None

    def weights(self) -> str:
        """What identifies the weights that paint; workers are then held to them."""
        return ""

    def load(self) -> None:
        """Load weights; once per worker."""

    def captions(self, sample: Sample) -> tuple[str | None, str | None]:
        """Captions of the reference and of the target that a sample leads to."""
        return caption_of(sample.row, "references"), caption_of(sample.row, "targets")

    def evidence(self, sample: Sample, painted: Painted) -> dict[str, Any]:
        """Why the new pair is one: what the row had, painted by this operator."""
        old = sample.row.get("evidence") or {}
        return {
            "operator": self.name,
            "reason": old.get("reason") or "painted from its text",
            "changes": old.get("changes") or [],
            "score": old.get("score"),
        }

    def record(self, sample: Sample, painted: Painted) -> dict[str, Any]:
        """What is written down of a sample, beside operator, seed, number and drawn numbers."""
        return dict(painted.note)

    # ------------------------------------------------------------ the contract

    @property
    def name(self) -> str:
        """As recipes call it."""
        return str(getattr(self, "registered_name", type(self).__name__))

    def needs(self, level: Level) -> set[str]:
        read = {"items.media"} if self.reads_picture else set()
        texts = {"modification"} if level == "triplets" else set()
        return read | texts | (set() if level == "items" else {"pairs"})

    def gives(self, level: Level) -> set[str]:
        given = {"collection", "items.media", "edit"}
        if self.best is not None:
            given |= {f"score_edit_{name}" for name in SCORES}
        return given | ({"pairs"} if level == "items" else set())

    def columns(self, level: Level) -> list[str]:
        if level == "items":
            return list(schema.ITEMS.names)
        own = ["id", "references", "targets", "evidence"]
        return [*own, "modification"] if level == "triplets" else own

    def resources(self) -> Resources:
        """One CPU, and a GPU where there is one; rows that fill about one batch."""
        gpus = models.gpus(getattr(self.settings, "device", "auto"))
        rows = max(1, self.settings.batch_size // self.settings.samples)
        return Resources(gpus=gpus, batch_size=rows, actor=True)

    def revision(self) -> str:
        chooses = [self.best.revision()] if self.best else []
        return "+".join(one for one in (self.weights(), *chooses) if one)

    def check(self) -> Iterable[str]:
        if self.best is None:
            return ()
        try:
            self.best.revision()
            clip.config(self.best.ref)
            chosen = self.best.settings
            models.check_choices(chosen.device, chosen.precision)
        except DatagenError as error:
            return [f"keep: {error}"]
        return ()

    def open(self, context: Context) -> None:
        self._context = context
        self.load()
        if self.best is not None:
            self.best.open()

    def still_stands(self, context: Context, notes: Mapping[str, Any]) -> bool:
        """Whether the pictures that the step has packed are all there."""
        step = context.staged.rstrip("/").rsplit("/", 2)[-2]
        return intact(store.join(context.media_dir, step))

    def prepare(self, rows: pa.Table) -> pa.Table:
        """Decode the pictures of references, where the operator reads them."""
        return _references.decoded(rows) if self.reads_picture else rows

    def __call__(self, rows: pa.Table) -> pa.Table:
        stage = Stage(self._context.staged)
        size = 1 if self.singly else max(1, rows.num_rows)
        parts = [rows.slice(at, size) for at in range(0, rows.num_rows, size)]
        lines = [one for part in parts for one in self._answers(part, stage)]
        stage.publish()
        return pa.Table.from_pylist(lines, schema=ANSWER)

    def _answers(self, rows: pa.Table, stage: Stage) -> list[dict[str, Any]]:
        """The lines of ``rows``, their pictures on the stage."""
        lines: list[dict[str, Any]] = []
        fit: list[dict[str, Any]] = []
        for row in map(_references.opened, rows.to_pylist()):
            if fault := self.unfit(row):
                lines.append(line(row["id"], schema.REJECTED, *fault))
            else:
                fit.append(row)
        samples = [self.sample(row, number) for row in fit for number in self._numbers()]
        painted = self._painted(samples)
        for at in range(0, len(samples), self.settings.samples):
            part = slice(at, at + self.settings.samples)
            lines += self._row(samples[part], painted[part], stage)
        return lines

    # ------------------------------------------------------------ samples

    def _numbers(self) -> range:
        return range(self.settings.samples)

    def sample(self, row: Mapping[str, Any], number: int) -> Sample:
        """Sample ``number`` of a row."""
        attempt = [str(self._context.attempt)] if self._context.attempt else []
        key = ("sample", str(self._context.seed), row["id"], str(number), *attempt)
        seed = int(schema.content_id(*key)[:16], 16) >> 1
        wanted = {name: getattr(self.settings, name) for name in self.ranges}
        numbers = {
            name: drawn(value, (*key, name)) for name, value in wanted.items() if value is not None
        }
        return Sample(row, number, seed, numbers)

    def _painted(self, samples: Sequence[Sample]) -> list[Painted]:
        """What comes of ``samples``, those of a row one after another."""
        each = self.settings.samples
        if not self.by_row:
            return self._batched(samples, self.settings.batch_size)
        size = min(self.settings.batch_size, each)
        rows = [samples[at : at + each] for at in range(0, len(samples), each)]
        return [one for row in rows for one in self._batched(row, size)]

    def _batched(self, samples: Sequence[Sample], size: int) -> list[Painted]:
        found: list[Painted] = []
        for at in range(0, len(samples), size):
            part = list(samples[at : at + size])
            filled = part + [part[-1]] * (size - len(part)) if self.fills else part
            found += self._within_memory(filled)[: len(part)]
        return found

    def _within_memory(self, samples: Sequence[Sample]) -> list[Painted]:
        """What comes of ``samples``; in halves where memory does not do for all at once, and from
        then on no more together than it did for.
        """
        if len(samples) > self._room:
            cuts = range(0, len(samples), self._room)
            parts = [samples[at : at + self._room] for at in cuts]
            return [one for part in parts for one in self._within_memory(part)]
        try:
            return self.paint(samples)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            told = " ".join(str(error).split())[:200]
        _free()
        if len(samples) == 1:
            return [Painted(fault=("out_of_memory", told))]
        self._room = len(samples) // 2
        return self._within_memory(samples)

    # ------------------------------------------------------------ what becomes of them

    def _row(
        self, samples: Sequence[Sample], painted: Sequence[Painted], stage: Stage
    ) -> list[dict[str, Any]]:
        """The lines of one row: a line each for its samples."""
        lines: list[dict[str, Any]] = []
        good: list[tuple[Sample, Painted]] = []
        for sample, one in zip(samples, painted, strict=True):
            if fault := one.fault or fault_of(one):
                rule, detail = fault
                detail = f"sample {sample.number}, seed {sample.seed}: {detail}"
                lines.append(line(sample.row["id"], schema.FAILED, rule, detail))
            else:
                good.append((sample, one))
        scores = self._scores(good)
        chosen = self.best.chosen(scores) if self.best else [None] * len(good)
        for (sample, one), told, lost in zip(good, scores, chosen, strict=True):
            if lost is not None:
                rule, detail = lost
                detail = f"sample {sample.number}, seed {sample.seed}: {detail}"
                lines.append(line(sample.row["id"], schema.REJECTED, rule, detail))
            else:
                lines.append(self._kept(sample, one, told, stage))
        return lines

    def _scores(self, good: Sequence[tuple[Sample, Painted]]) -> list[Any]:
        if self.best is None or not good:
            return [{}] * len(good)

        def picture(sample: Sample, pixels: Array | None) -> Image.Image:
            found: Image.Image = sample.row["picture"] if pixels is None else as_image(pixels)
            return found

        before = [picture(sample, one.reference) for sample, one in good]
        after = [picture(sample, one.target) for sample, one in good]
        texts = [self.captions(sample) for sample, _ in good]
        return list(self.best.scores(before, after, [(a or "", b or "") for a, b in texts]))

    def _kept(
        self, sample: Sample, painted: Painted, scores: Mapping[Any, float], stage: Stage
    ) -> dict[str, Any]:
        """The line of a sample that goes on."""
        before, after = self.captions(sample)
        record = {
            "operator": self.name,
            "seed": sample.seed,
            "number": sample.number,
            **sample.drawn,
            **self.record(sample, painted),
        }
        out = line(sample.row["id"], schema.KEPT) | {
            "evidence": self.evidence(sample, painted),
            "edit": json.dumps(record, sort_keys=True, ensure_ascii=False),
        }
        for side, pixels, caption in (
            ("references", painted.reference, before),
            ("targets", painted.target, after),
        ):
            if pixels is not None:
                form, quality = self.settings.format, self.settings.quality
                made = stage.add(as_image(pixels), form, quality)
                out[side] = [new_member(made, caption)]
            elif side == "targets" and side not in sample.row:
                out[side] = [schema.member(sample.row)]
        return out | {f"score_edit_{name}": value for name, value in scores.items()}


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    named = type(error).__name__ in ("OutOfMemoryError", "MemoryError")
    return named or "out of memory" in text or "can't allocate memory" in text


def _free() -> None:
    """Give back what a forward pass that failed still holds."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
