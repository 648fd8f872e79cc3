"""Untrusted texts in Markdown: as code spans and blocks, or escaped, never as markup."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

#: Longest text that is shown (characters).
MOST = 240

_MARKUP = re.compile(r"([\\`*_{}\[\]#+!|~$^])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_LINK = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(:)|\b(www)(\.)")


class Safe(str):
    """Text that is Markdown on purpose."""


def line(value: Any, most: int = MOST) -> str:
    """One line without control, bidirectional or invisible characters, cut to ``most``."""
    spaced = " ".join(str(value).split())
    clean = "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def code(value: Any, most: int = MOST) -> Safe:
    """A code span that the text cannot leave, in a table too; an en dash for no text."""
    text = line("" if value is None else value, most)
    if not text:
        return Safe("–")
    ticks = "`" * (_longest(text) + 1)
    pad = " " if text[0] in "` " or text[-1] in "` " else ""
    # A table ends its cell at a bar before it looks for code.
    return Safe(f"{ticks}{pad}{text}{pad}{ticks}".replace("|", "\\|"))


def plain(value: Any, most: int = MOST) -> Safe:
    """The text itself, with everything escaped that Markdown or HTML could take for markup."""
    text = _MARKUP.sub(r"\\\1", line("" if value is None else value, most))
    text = "".join(_ENTITIES.get(character, character) for character in text)
    return Safe(_LINK.sub(lambda m: f"{m[1] or m[3]}&#{ord(m[2] or m[4])};", text))


def block(text: str, language: str = "") -> Safe:
    """A fenced block that the text cannot leave; line breaks stay."""
    kept = "".join(c for c in text if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs"))
    fence = "`" * max(3, _longest(kept) + 1)
    return Safe(f"{fence}{language}\n{kept.rstrip()}\n{fence}")


def _longest(text: str) -> int:
    """Length of the longest run of backticks."""
    return max((len(run) for run in re.findall("`+", text)), default=0)


def inert(value: Any) -> Any:
    """What a template prints: numbers and :class:`Safe` as they are, any other text escaped."""
    return value if isinstance(value, (Safe, int, float)) else plain(value)
