"""The dataset card for ``datasets``: where the splits lie, and what the columns are."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import yaml

_MEANING = {
    "id": "hash of the triplet's content",
    "pair": "id of the pair that the triplet grew from",
    "modification": "the text that leads from the reference to the target",
    "references": "the query's pictures",
    "targets": "what the query should find; all of them are right",
    "negatives": "hard negatives; those of kind `reference` are the query's own picture",
    "reference_items": "id, key, source, caption and labels (JSON) of the references",
    "target_items": "the same of the targets",
    "negative_items": "the same of the negatives, with kind and score",
    "reason": "why the pair was made",
    "changes": "what differs: field, removed, added",
    "provenance": "JSON: the steps that made the triplet, with model, revision, prompt and seed",
    "verdict": "kept, rejected or failed",
    "rule": "the rule that rejected it",
    "detail": "what the rule saw",
    "step": "the step that decided",
}


def card(
    note: Mapping[str, Any],
    splits: Mapping[str, Mapping[str, Any]],
    columns: pa.Schema,
    embeds: bool,
) -> str:
    """Markdown with the YAML head that ``load_dataset`` reads.

    ``note`` is the run's note; ``splits`` has the notes of each exported split.
    """
    recipe = note["recipe"]
    name = " ".join(str(recipe.get("name") or "triplets").split())
    head = {
        "pretty_name": name,
        "tags": ["composed-image-retrieval", "datagen"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*.parquet"} for split in splits
                ],
            }
        ],
    }
    lines = ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]
    lines += [f"# {_text(name)}", ""]
    if recipe.get("about"):
        lines += [_text(recipe["about"]), ""]
    lines += ["| split | triplets |", "|---|---|"]
    lines += [f"| {split} | {about['triplets']:,} |" for split, about in splits.items()]
    lines += ["", "| column | meaning |", "|---|---|"]
    lines += [f"| `{column}` | {_meaning(column)} |" for column in columns.names]
    if not embeds and "references" in columns.names:
        lines += ["", "References, targets and negatives are paths below this folder."]
    lines += ["", "Licences of the sources:", "", *_licences(recipe.get("source")), ""]
    return "\n".join(lines)


def _meaning(column: str) -> str:
    if column.startswith("score_"):
        return f"score `{_text(column.removeprefix('score_'))}`"
    return _MEANING[column]


def _licences(source: Any) -> Iterator[str]:
    for one in source if isinstance(source, list) else [source]:
        if isinstance(one, Mapping):
            name = str(one.get("id") or one.get("type"))
            yield f"- {_text(name)}: {_text(one.get('license') or 'not stated')}"


def _text(value: Any) -> str:
    """Text from a recipe as Markdown shows it plainly, on one line."""
    plain = html.escape(" ".join(str(value).split()), quote=False)
    for mark in "\\`*_[]|#":
        plain = plain.replace(mark, "\\" + mark)
    return plain
