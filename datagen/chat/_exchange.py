"""One exchange with an OpenAI-compatible server: what is sent, and what is read of the reply."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from datagen.chat.ask import Answer, Ask, one_line, size_in_tokens

#: Bytes that are read of a reply; an answer of a million tokens has fewer.
MOST_BYTES = 16 << 20


class Again(Exception):
    """A failure that may pass. busy: the server asks for patience; unreachable: nobody listens.

    wait: seconds that the server asks for.
    """

    def __init__(
        self,
        reason: str,
        busy: bool = False,
        unreachable: bool = False,
        wait: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.busy = busy
        self.unreachable = unreachable
        self.wait = wait


@dataclass(frozen=True)
class Dialect:
    """What a server understands of the format.

    schema: ``response_format`` with a JSON schema; limit: its name for the most tokens; seed: it
    takes one.
    """

    schema: bool = True
    limit: str = "max_tokens"
    seed: bool = True

    def payload(self, ask: Ask, model: str) -> dict[str, Any]:
        """What is posted."""
        out: dict[str, Any] = {
            "model": model,
            "messages": [dict(message) for message in ask.messages],
            self.limit: ask.max_tokens,
            "temperature": ask.temperature,
        }
        if ask.seed is not None and self.seed:
            out["seed"] = ask.seed
        if ask.stop:
            out["stop"] = list(ask.stop)
        if ask.schema is not None and self.schema:
            wanted = {"name": "answer", "strict": True, "schema": dict(ask.schema)}
            out["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return out

    def simpler(self, ask: Ask, message: str, proven: bool) -> Dialect | None:
        """What to try where a server refused this one with ``message``; None: it is the ask.

        proven: the server has understood this dialect before.
        """
        if "max_completion_tokens" in message and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        if proven:
            return None
        if self.seed and ask.seed is not None and re.search(r"(?i)(?<![a-z])seed\b", message):
            return replace(self, seed=False)
        if self.schema and ask.schema is not None:
            return replace(self, schema=False)
        return None


def parse(body: bytes, ask: Ask) -> Answer:
    """The answer in the body of a good reply. Raises Again for what is no answer at all."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Again(f"a reply that is not JSON ({one_line(error, 80)})") from error
    if isinstance(data, Mapping) and data.get("error") and not data.get("choices"):
        raise Again(f"an error in a good reply: {message_of(body)}")
    try:
        choice = data["choices"][0]
        message = choice["message"]
        refusal, text = message.get("refusal"), _text(message.get("content"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Again("a reply without choices[0].message") from error
    if text is None and isinstance(refusal, str) and refusal:
        text = ""
    if text is None and choice.get("finish_reason") in ("length", "content_filter"):
        # A model that reasons first, and got no further: another try ends there again.
        text = ""
    if text is None:
        raise Again("a reply whose message has no content")
    fault = None
    if isinstance(refusal, str) and refusal:
        text, fault = text or refusal, f"the model refused: {one_line(refusal)}"
    elif choice.get("finish_reason") == "length":
        fault = f"cut off after max_tokens ({ask.max_tokens})"
    elif choice.get("finish_reason") == "content_filter":
        fault = "cut off by the server's filter of contents"
    usage = data.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    tokens_in = _count(usage.get("prompt_tokens"))
    tokens_out = _count(usage.get("completion_tokens"))
    if tokens_in is None:
        tokens_in = size_in_tokens(ask)
    if tokens_out is None:
        tokens_out = len(text.encode("utf-8", "replace")) // 3
    return Answer(text, fault, tokens_in, tokens_out)


def _text(content: Any) -> str | None:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "".join(part for part in parts if isinstance(part, str)) if parts else None
    return content if isinstance(content, str) else None


def _count(value: Any) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
    return value if known else None


def message_of(body: bytes) -> str:
    """What a server says of an error, as one line."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return one_line(body[:2000].decode("utf-8", "replace")) or "nothing said"
    for name in ("error", "message", "detail"):
        if isinstance(said, Mapping) and said.get(name):
            said = said[name]
    return one_line(said if isinstance(said, str) else json.dumps(said))


def code_of(body: bytes) -> str:
    """The ``code`` or ``type`` of an error; empty where there is none."""
    try:
        error = json.loads(body)["error"]
        return str(error.get("code") or error.get("type") or "")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return ""


def seconds_of(header: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as a number or date; None: nothing."""
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", header.strip()):
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
