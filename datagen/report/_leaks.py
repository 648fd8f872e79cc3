"""What of the making of the data shows in modification texts.

These are signs, not proofs: "the photo is darker" is good English. Each is counted by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen.report import _columns
from datagen.report._columns import flat, parents
from datagen.report._numbers import Array

_MEDIUM = r"(?:images?|pictures?|photos?|photographs?|videos?|clips?|captions?)"
_ORDINAL = r"(?:\d{1,3}|one|two|three|[ab])"
_RANK = r"(?:first|second|third|1st|2nd|3rd|left|right|other|original|source|query|input|output)"

#: Name of each sign and its pattern (RE2, case aside).
SIGNS = {
    "template_syntax": r"\{[^{}]{0,80}\}|\{\{|\}\}|\$\{|%[sd]\b|<[a-z/|][^<>]{0,60}>|__+"
    r"|\[(?:mask|unk|pad|cls|sep|noun|verb|adj|adjective|object|subject|colou?r|removed|added"
    r"|inst|/inst)\]",
    "numbered_medium": rf"\b{_MEDIUM} {_ORDINAL}\b|\b{_RANK} {_MEDIUM}\b",
    "word_reference": r"\breferences?\b",
    "word_target": r"\btargets?\b",
    "file_extension": r"\w\.(?:jpe?g|png|gif|webp|bmp|tiff?|avif|ppm|mp4|mov|webm|mkv|avi|txt"
    r"|json|csv)\b",
    "modality_word": rf"\b{_MEDIUM}\b|\bfootage\b",
}


def signs(texts: pa.Array, labels: Iterable[str] = ()) -> dict[str, Array]:
    """Which of the unique ``texts`` show each sign of :data:`SIGNS`, and ``label_name``.

    A label's name counts where it stands as ``name:`` or ``name=``, or where it is no ordinary
    word (``baseColour``, ``hair_colour``, ``p2``).
    """
    found = {name: _matches(texts, f"(?i){pattern}") for name, pattern in SIGNS.items()}
    pattern = _label_pattern(labels)
    found["label_name"] = _matches(texts, pattern) if pattern else np.zeros(len(texts), dtype=bool)
    return found


def _matches(texts: pa.Array, pattern: str) -> Array:
    hits = pc.match_substring_regex(texts, pattern)
    found: Array = pc.fill_null(hits, False).to_numpy(zero_copy_only=False)
    return found


def _label_pattern(labels: Iterable[str]) -> str:
    names = sorted(name for name in set(labels) if re.fullmatch(r"\w[\w-]{0,60}", name, re.ASCII))
    odd = [name for name in names if re.search(r"[_\d]|[a-z][A-Z]", name)]
    parts = [rf"(?i:\b(?:{'|'.join(names)})\s?[:=])"] if names else []
    parts += [rf"\b(?:{'|'.join(odd)})\b"] if odd else []
    return "|".join(parts)


def copies(path: str) -> dict[str, Array]:
    """Whether the text of each kept triplet of the file is a caption of its reference or target.

    Compared without case, spaces at the ends, repeated spaces and a final full stop.
    """
    columns = ["modification", "verdict", "references.caption", "targets.caption"]
    found: dict[str, list[Array]] = {"reference_caption": [], "target_caption": []}
    for batch in _columns.batches(path, columns):
        table = _columns.kept(batch)
        texts = _plain(table["modification"]).combine_chunks()
        for name, role in zip(found, ("references", "targets"), strict=True):
            rows = parents(table, role)
            same = pc.equal(_plain(flat(table, role, "caption")), texts.take(pa.array(rows)))
            hit = np.zeros(table.num_rows, dtype=bool)
            hit[rows[pc.fill_null(same, False).to_numpy()]] = True
            found[name].append(hit)
    return {
        name: np.concatenate(parts) if parts else np.zeros(0, dtype=bool)
        for name, parts in found.items()
    }


def _plain(texts: Any) -> Any:
    spaced = pc.replace_substring_regex(pc.utf8_lower(texts), r"\s+", " ")
    return pc.utf8_trim(spaced, " .")


def counted(found: dict[str, Array], uses: Array) -> dict[str, int]:
    """Triplets with each sign: ``found`` per unique text, ``uses`` of each text."""
    return {name: int(uses[mask].sum()) for name, mask in found.items()}


def label_names(labels: Sequence[str | None]) -> set[str]:
    """Names of the fields of some labels (JSON objects), at any depth that the text shows."""
    found: set[str] = set()
    for text in labels:
        found.update(re.findall(r'"([^"\\]{1,60})"\s*:', text or ""))
    return found
