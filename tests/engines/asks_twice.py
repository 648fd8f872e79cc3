"""An operator of a test: asks freely, about the answer, and for JSON; at times too much."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from datagen import schema
from datagen.chat import settings as engines
from datagen.chat.ask import Answer, Ask
from datagen.chat.asking import Asking
from datagen.step import Resources, RowOperator, Settings

HELD: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "words": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3},
        "choice": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["words", "choice"],
    "additionalProperties": False,
}


class AsksTwiceSettings(Settings):
    engine: engines.EngineSettings


def plain(text: str, tokens: int = 16, **more: Any) -> Ask:
    return Ask(({"role": "user", "content": text},), max_tokens=tokens, **more)


class AsksTwice(Asking[AsksTwiceSettings], RowOperator[AsksTwiceSettings]):
    """Pairs to triplets, whose text is a JSON object of the three answers."""

    Settings = AsksTwiceSettings
    levels = ("pairs",)
    result = "triplets"

    def needs(self, level: str) -> set[str]:
        return {"pairs"}

    def gives(self, level: str) -> set[str]:
        return {"modification"}

    def columns(self, level: str) -> list[str]:
        return ["id"]

    def resources(self) -> Resources:
        return Resources(gpus=super().resources().gpus, batch_size=16, actor=True)

    def __call__(self, rows: pa.Table) -> pa.Table:
        engine = self.engines["engine"]
        ids = rows["id"].to_pylist()
        # One id in eight has a question that no context holds.
        long = {one: "long " * 2000 for one in ids if int(one[:8], 16) % 8 == 0}
        free = engine.answer([plain(f"{long.get(one, '')}{one}") for one in ids])
        first = dict(zip(ids, free, strict=True))
        told = [one for one in ids if first[one].text is not None]
        again = engine.answer([plain(f"{one}: {first[one].text}", 12) for one in told])
        second = first | dict(zip(told, again, strict=True))
        held = engine.answer([plain(one, 200, schema=HELD) for one in ids])
        lines = [self.line(*row) for row in zip(ids, free, second.values(), held, strict=True)]
        names = ["id", "modification", "verdict", "rule", "detail"]
        return pa.table([pa.array(c, pa.string()) for c in zip(*lines, strict=True)], names=names)

    def line(self, name: str, *answers: Answer) -> tuple[str | None, ...]:
        for answer in answers:
            if answer.text is None:
                return name, None, schema.FAILED, "no_answer", answer.fault
        said = [[one.text, one.fault, one.tokens_in, one.tokens_out] for one in answers]
        return name, json.dumps(said), schema.KEPT, None, None
