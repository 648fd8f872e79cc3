"""An engine that answers many asks at once, elsewhere: vLLM on the cluster, by ray.data.llm.

An operator asks it as it asks any engine. What the kept answers do not hold is written down, and
answered with a fault; :mod:`datagen.gather` lets the operator do so for all rows of a step, has
the asks answered, and begins again, until nothing is left to ask. Only then the rows are worked on
for good, with every answer among those that are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datagen import models
from datagen.chat.ask import Answer, Ask, Each
from datagen.chat.cache import Cache
from datagen.schema import canonical_json

if TYPE_CHECKING:
    from datagen.chat.settings import VllmSettings

NOT_ASKED = "not answered: this engine answers within a run alone"
NOT_YET = "not answered yet"


class Gathered:
    """settings: which model, and how it is run. faults: why asks of this run have no answer."""

    def __init__(self, settings: VllmSettings, faults: Cache | None = None) -> None:
        self.settings = settings
        self.ref = models.parse(settings.model)
        self.faults = faults
        #: Asks without an answer, by key, while an operator is asked what it asks; else None.
        self.recorded: dict[str, Ask] | None = None
        self._weights = ""

    @property
    def model(self) -> str:
        return str(self.ref)

    @property
    def weights(self) -> str:
        """The commit on the hub, or the hash of the files. Raises DatagenError."""
        if not self._weights:
            self._weights = models.revision(self.ref)
        return self._weights

    @property
    def revision(self) -> str:
        """The weights, and how they are used: answers of other engines are not these."""
        how = self.settings.how()
        digest = hashlib.blake2b(canonical_json(how).encode(), digest_size=4).hexdigest()
        return f"{self.weights} vllm" + (f"#{digest}" if how else "")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "recorded": None}

    def open(self) -> None:
        if self.faults is not None:
            self.faults.open()

    def answer(self, asks: Sequence[Ask], each: Each | None = None) -> list[Answer]:
        keys = [ask.key(self.model, self.revision) for ask in asks]
        known = self.faults.get(keys) if self.faults is not None else [None] * len(keys)
        out = []
        for number, (key, ask, fault) in enumerate(zip(keys, asks, known, strict=True)):
            if fault is not None:
                answer = Answer(None, fault.text)
            else:
                answer = Answer(None, NOT_ASKED if self.faults is None else NOT_YET)
                if self.recorded is not None:
                    self.recorded[key] = ask
            out.append(answer)
            if each is not None:
                each(number, answer)
        return out

    def close(self) -> None:
        if self.faults is not None:
            self.faults.close()
