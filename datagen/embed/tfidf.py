"""A caption space without a model: words and word pairs, weighted and reduced (LSA).

TF-IDF with sublinear counts, then a truncated singular value decomposition, as in latent semantic
analysis (Deerwester et al. 1990). It tells which captions share words, not which mean the same:
fit for a laptop, a demo, or as the cheap member of a union of spaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from datagen import faults, models, schema
from datagen.embed import _rows
from datagen.errors import DatagenError
from datagen.faults import Fault
from datagen.schema import Level
from datagen.step import Context, Parallel, Result, Settings, TableOperator, Tables, serial

Array = np.ndarray[Any, Any]

#: At most this many words and groups of words count, the most frequent ones.
MAX_FEATURES = 100_000
#: Captions turned into vectors at a time.
CHUNK = 50_000
#: Share of a caption's weight that must be known for it to have a direction.
LEAST = 1e-3


class TfidfSettings(Settings):
    """space: name of the space.

    model: ``tfidf``, by which ``embed`` without ``op`` finds this operator.
    width: dimensions of a vector at most (a small vocabulary gives fewer). words: length of the
    longest group of words that counts, 1 to 3. unit: what is counted; ``letters`` counts groups
    of two to four letters within words, for languages that put no spaces between words.
    which: an item's vector is the mean over its captions, or its first caption's. fit_on: captions
    that weights are learned from, chosen by the hash of their item.
    """

    space: str = "caption"
    model: Literal["tfidf"] = "tfidf"
    width: int = Field(128, ge=2, le=2048)
    words: int = Field(2, ge=1, le=3)
    unit: Literal["words", "letters"] = "words"
    which: _rows.Which = "mean"
    fit_on: int = Field(200_000, ge=1)


class Tfidf(TableOperator[TfidfSettings]):
    """Unit vectors of captions, rounded to half precision, for all items at once.

    Items without a caption, or whose captions hold no word that was learned, are rejected.
    """

    Settings = TfidfSettings
    levels = ("items",)

    def needs(self, level: Level) -> set[str]:
        return {"items.captions"}

    def gives(self, level: Level) -> set[str]:
        return {f"space.{self.settings.space}"}

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        items = tables.items.take(pc.sort_indices(tables.items["id"])).combine_chunks()
        ids, captions = items["id"].to_pylist(), items["captions"].to_pylist()
        wrong: list[Fault] = [None] * len(ids)
        if not ids:
            return Result(items, schema.VERDICTS.empty_table(), np.zeros((0, 1), np.float32))
        space = _Space(self.settings, context.seed)
        # The number of threads decides the order of sums, and so the last bits.
        with threadpool_limits(1):
            space.fit(_sample(ids, captions, self.settings))
            usable, vectors = _rows.caption_vectors(captions, self.settings.which, space.encode)
        _rows.without_caption(wrong, usable)
        lost = np.isnan(vectors).any(axis=1)
        for row in np.array(usable, dtype=np.int64)[lost].tolist():
            wrong[row] = (schema.REJECTED, "no_known_word", "no word of the captions was learned")
        good = [row for row, fault in enumerate(wrong) if fault is None]
        return Result(
            rows=items.take(pa.array(good, pa.int64())),
            verdicts=pa.table({"id": ids, **faults.columns(wrong)}, schema=schema.VERDICTS),
            vectors=vectors[~lost],
            notes=space.notes,
        )


def _sample(
    ids: Sequence[str], captions: Sequence[Sequence[str] | None], settings: TfidfSettings
) -> list[str]:
    """Captions to learn from: those of the items with the lowest hashes, in the order of ids."""
    last = 1 if settings.which == "first" else None
    texts = [[text for text in many or () if text and text.strip()][:last] for many in captions]
    total = sum(map(len, texts))
    chosen = list(range(len(ids)))
    if total > settings.fit_on:
        ranks = sorted(chosen, key=lambda row: hashlib.blake2b(ids[row].encode()).digest())
        ends = np.cumsum([len(texts[row]) for row in ranks])
        kept = max(1, int(np.searchsorted(ends, settings.fit_on, side="right")))
        chosen = sorted(ranks[:kept])
    return [text for row in chosen for text in texts[row]]


class _Space:
    """The weights and the projection that were learned."""

    def __init__(self, settings: TfidfSettings, seed: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.settings = settings
        self.seed = seed
        letters = settings.unit == "letters"
        self.vectorizer = TfidfVectorizer(
            analyzer="char_wb" if letters else "word",
            ngram_range=(2, 4) if letters else (1, settings.words),
            token_pattern=None if letters else r"(?u)\b\w+\b",
            sublinear_tf=True,
            max_features=MAX_FEATURES,
            dtype=np.float32,
        )
        self.projection: Any = None
        self.notes: dict[str, Any] = {}

    def fit(self, texts: list[str]) -> None:
        """Learn from ``texts``. Raises DatagenError where there is no word in them."""
        from sklearn.decomposition import TruncatedSVD

        try:
            counts = self.vectorizer.fit_transform(texts)
        except ValueError as error:
            raise DatagenError(
                f"space '{self.settings.space}': the captions hold no words to learn from; "
                "give the source a caption column, or use an image space"
            ) from error
        features = counts.shape[1]
        # A projection cannot have more dimensions than there are words or captions.
        width = min(self.settings.width, counts.shape[0], features)
        explained = 1.0
        if width < features:
            self.projection = TruncatedSVD(width, random_state=self.seed % (1 << 32))
            # One caption has no variance to explain.
            with np.errstate(invalid="ignore"):
                explained = float(self.projection.fit(counts).explained_variance_ratio_.sum())
        self.notes = {"learned_from": len(texts), "features": features, "width": width}
        if np.isfinite(explained):
            self.notes["explained"] = round(explained, 4)

    def encode(self, texts: list[str]) -> Array:
        """Unit vectors of ``texts``; NaN where no word is known."""
        width = self.notes["width"]
        parts = [np.zeros((0, width), np.float32)]
        for start in range(0, len(texts), CHUNK):
            counts = self.vectorizer.transform(texts[start : start + CHUNK])
            wide = self.projection.transform(counts) if self.projection else counts.toarray()
            # What is left of a caption that the projection does not hold is noise.
            known = np.linalg.norm(wide, axis=1) > LEAST
            parts.append(models.unit_vectors(np.where(known[:, None], wide, 0)))
        return np.concatenate(parts)
