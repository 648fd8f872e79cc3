from __future__ import annotations

import itertools
import random
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest

from datagen import models, registry
from datagen.embed.sentence_transformers import SentenceTransformers, SentenceTransformersSettings
from datagen.step import Context

models.prepare()
library = pytest.importorskip("sentence_transformers", reason="needs datagen[models]")

WORDS = str.split("a red blue dog cat man woman running on the beach zebra's x, y! 42 überall")


def captions(count: int) -> list[list[str] | None]:
    chance = random.Random(3)

    def sentence() -> str:
        return " ".join(chance.choices(WORDS, k=chance.choice([1, 3, 9, 20, 80])))

    rows: list[list[str] | None] = [[sentence() for _ in range(1 + n % 3)] for n in range(count)]
    return [*rows, [], None, [" "], ["", "a dog"]]


def table(rows: list[list[str] | None]) -> pa.Table:
    ids = [f"{number:020x}" for number in range(len(rows))]
    return pa.table({"id": ids, "captions": pa.array(rows, pa.list_(pa.string()))})


def opened(model: str, **settings: Any) -> SentenceTransformers:
    chosen = {"space": "caption", "model": model, "device": "cpu", "batch_size": 4, **settings}
    operator = SentenceTransformers(SentenceTransformersSettings(**chosen))
    assert list(operator.check()) == []
    operator.open(Context())
    return operator


def embed(operator: SentenceTransformers, rows: pa.Table, size: int = 100) -> dict[str, Any]:
    parts = [operator(rows.slice(start, size)) for start in range(0, rows.num_rows, size)]
    return {row["id"]: row for part in parts for row in part.to_pylist()}


def test_vectors_equal_the_librarys_own_mean_over_captions(tiny_encoder: str) -> None:
    own = library.SentenceTransformer(tiny_encoder.removeprefix("file:"), device="cpu")
    rows = captions(12)
    found = embed(opened(tiny_encoder), table(rows))
    first = embed(opened(tiny_encoder, which="first"), table(rows))
    for number, texts in enumerate(rows):
        words = [text for text in texts or () if text.strip()]
        row = found[f"{number:020x}"]
        if not words:
            assert (row["verdict"], row["rule"], row["vector"]) == ("rejected", "no_caption", None)
            continue
        each = own.encode(words, normalize_embeddings=True)
        mean = each.mean(0) / np.linalg.norm(each.mean(0))
        assert np.abs(np.array(row["vector"]) - mean).max() < 1e-3
        assert np.abs(np.array(first[row["id"]]["vector"]) - each[0]).max() < 1e-3


def test_vectors_do_not_depend_on_batches_or_order(tiny_encoder: str) -> None:
    operator = opened(tiny_encoder)
    rows = table(captions(14))
    expected = embed(operator, rows)
    order = np.random.default_rng(0).permutation(rows.num_rows)
    for size, ids in itertools.product((1, 3, 16), (np.arange(rows.num_rows), order)):
        assert embed(operator, rows.take(pa.array(ids)), size) == expected


def test_a_prompt_stands_before_every_caption(tiny_encoder: str) -> None:
    own = library.SentenceTransformer(tiny_encoder.removeprefix("file:"), device="cpu")
    found = opened(tiny_encoder, prompt="two red ").texts(["dogs", "a man on the beach"])
    theirs = own.encode(
        ["dogs", "a man on the beach"], prompt="two red ", normalize_embeddings=True
    )
    assert np.abs(found - theirs).max() < 1e-3
    assert np.abs(found - opened(tiny_encoder).texts(["dogs", "a man on the beach"])).max() > 0.01


def test_the_prompt_of_the_models_own_configuration_is_used(tiny_encoder: str) -> None:
    operator = opened(tiny_encoder)
    plain = operator.texts(["dogs"])
    operator.encoder.model.prompts = {"query": "two red "}
    operator.encoder.model.default_prompt_name = "query"
    assert (
        operator.texts(["dogs"]) == opened(tiny_encoder, prompt="two red ").texts(["dogs"])
    ).all()
    assert (operator.texts(["dogs"]) != plain).any()


def test_an_encoder_without_a_transformer_works_too(tmp_path: Any, tiny_encoder: str) -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    folder = tiny_encoder.removeprefix("file:")
    words = Tokenizer.from_file(f"{folder}/tokenizer.json")
    module = StaticEmbedding(
        words,
        embedding_weights=np.random.default_rng(0)
        .normal(size=(words.get_vocab_size(), 20))
        .astype(np.float32),
    )
    own = library.SentenceTransformer(modules=[module], device="cpu")
    own.save(str(tmp_path))
    operator = opened(f"file:{tmp_path}")
    texts = ["a dog", "a man on the beach", "red", "blue cat", "the woman running"]
    theirs = own.encode(texts, normalize_embeddings=True)
    assert np.abs(operator.texts(texts) - theirs).max() < 1e-3
    assert (operator.texts(texts[::-1])[::-1] == operator.texts(texts)).all()


def test_it_travels_to_a_worker_and_declares_what_it_reads(tiny_encoder: str) -> None:
    operator = SentenceTransformers(
        SentenceTransformersSettings(space="caption", model=tiny_encoder, device="cpu")
    )
    there = cloudpickle.loads(cloudpickle.dumps(operator))
    there.open(Context())
    assert there.texts([]).shape == (0, 32)
    assert registry.find("embed", "sentence_transformers") is SentenceTransformers
    assert operator.needs("items") == {"items.captions"}
    assert operator.gives("items") == {"space.caption", "texts.caption"}
    assert operator.revision().startswith("sha256:")


def test_an_open_clip_reference_is_sent_to_its_own_operator() -> None:
    operator = SentenceTransformers(
        SentenceTransformersSettings(space="caption", model="open_clip:ViT-B-32/openai")
    )
    assert "op: open_clip" in "".join(operator.check())
