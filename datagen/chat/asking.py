"""What operators that ask language models have in common: engines, prompts and their provenance.

An operator has one engine or several, by the name of the setting that describes each, and one
prompt or several. It asks by :func:`datagen.chat.structured.replies`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, overload

from pydantic import Field

from datagen import schema, store
from datagen.chat import prompts, structured
from datagen.chat import settings as engines
from datagen.chat.ask import Ask, Engine
from datagen.chat.cache import Cache
from datagen.chat.prompts import Prompt, Wanted
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject
from datagen.errors import DatagenError
from datagen.step import Context, Operator, Parallel, Resources, S, Settings, serial

_NEEDED = {
    "reference": "no_caption",
    "target": "no_caption",
    "changes": "no_change_known",
    "text": "no_text",
}


#: What a pair tells, of :data:`datagen.chat.prompts.DATA`.
OF_PAIR = frozenset({"reference", "target", "changes"})


class AskSettings(Settings):
    """Settings of every operator that asks a model."""

    #: 0 takes the likeliest words, 1 draws them as the model weighs them.
    temperature: float = Field(0.7, ge=0, le=2)
    #: Tokens that an answer may have.
    max_tokens: int = Field(512, ge=16, le=65_536)
    #: Rows with a longer caption are rejected.
    max_caption_chars: int = Field(2000, ge=1, le=100_000)


class Asking(Operator[S], Generic[S]):
    """Base of operators that ask models. Settings that describe engines make its ``engines``;
    a subclass loads its prompts by :meth:`prompt`.
    """

    requires = (("jsonschema", "llm"),)

    def __init__(self, settings: S) -> None:
        super().__init__(settings)
        self._prompts: dict[str, Prompt] = {}
        self._shown: dict[str, Prompt] = {}
        self._seed = 0
        self._attempt = 0
        self.engines: dict[str, Engine] = {
            name: engines.make(one) for name, one in self._described().items()
        }

    def _described(self) -> dict[str, engines.EngineSettings]:
        """The settings of its engines, by the names of these settings."""
        named = ((name, getattr(self.settings, name)) for name in type(self.settings).model_fields)
        return {name: value for name, value in named if isinstance(value, engines.KINDS)}

    def prompt(
        self,
        reference: str,
        kind: str,
        wanted: Wanted,
        engine: str = "engine",
        pictures: bool = False,
        tells: Collection[str] = OF_PAIR,
    ) -> Prompt:
        """Load a prompt that this operator uses.

        engine: name of the setting of whoever is asked; pictures: whether the prompt is one that
        shows them; tells: what of :data:`datagen.chat.prompts.DATA` there is to tell, and whose
        pictures to show. Raises DatagenError where the prompt gives no ``kind`` of answer, or not
        what is ``wanted``, or wants to tell or show what there is not.
        """
        prompt = prompts.load(reference)
        if prompt.kind != kind:
            raise DatagenError(
                f"prompt '{prompt.name}' asks for {prompt.kind}, where {kind} are wanted; "
                "'datagen prompts list' tells which prompts do"
            )
        if faults := list(prompt.faults(wanted)):
            raise DatagenError("; ".join(faults))
        if bool(prompt.pictures) != pictures:
            told = "pictures, and this step has none to show" if not pictures else "no pictures"
            mend = "take op: vlm or another prompt" if not pictures else "take op: llm for it"
            raise DatagenError(f"prompt '{prompt.name}' shows {told}; {mend}")
        for absent, verb in (
            (prompt.needs - set(tells), "tells"),
            (set(prompt.pictures) - set(tells), "shows"),
        ):
            if absent:
                raise DatagenError(
                    f"prompt '{prompt.name}' {verb} {', '.join(sorted(absent))}, which there is "
                    "not where it is to be asked; take another one ('datagen prompts list')"
                )
        if pictures:
            self._shown[engine] = prompt
        self._prompts[reference] = prompt
        return prompt

    def prompts(self) -> dict[str, Prompt]:
        """The prompts that it asks, by what settings call them."""
        return dict(self._prompts)

    def resources(self) -> Resources:
        """Those of the engine that wants the most."""
        wants = [one.resources() for one in self._described().values()]
        return max(wants, key=lambda one: (one.gpus, one.cpus, one.batch_size))

    def unaided(self) -> Resources | None:
        """Those of its engines that workers ask on their own; None where there is no such."""
        described = self._described().values()
        alone = [one for one in described if not isinstance(one, engines.VllmSettings)]
        wants = [one.resources() for one in alone]
        return max(wants, key=lambda one: (one.gpus, one.cpus, one.batch_size), default=None)

    def revision(self) -> str:
        told = [one.revision for one in self.engines.values()]
        told += [one.fingerprint for one in self._prompts.values()]
        return " ".join(filter(None, told))

    def provenance(self, context: Context) -> dict[str, Any]:
        many = list(self.engines.values())
        return super().provenance(context) | {
            "model": " + ".join(dict.fromkeys(one.model for one in many)),
            "revision": " + ".join(dict.fromkeys(filter(None, (m.revision for m in many)))) or None,
            "prompt": " + ".join(one.fingerprint for one in self._prompts.values()),
        }

    def check(self) -> Iterable[str]:
        for name, described in self._described().items():
            absent = list(described.absent())
            yield from (_of(name, line) for line in absent)
            if absent:
                continue
            try:
                _ = self.engines[name].revision
                blind = described.blind() if name in self._shown else None
                if blind is not None:
                    yield f"{name}: {blind}, and prompt '{self._shown[name].name}' shows pictures"
            except DatagenError as error:
                yield f"{name}: {error}"

    def reach(self) -> Iterable[str]:
        for name, one in self._described().items():
            yield from (_of(name, line) for line in one.reach())

    def ready(self, context: Context, parallel: Parallel = serial) -> None:
        """Warn of kept answers that are damaged: they are skipped, and asked for again."""
        kept = [getattr(engine, "cache", None) for engine in self.engines.values()]
        folders = {one.folder for one in kept if isinstance(one, Cache)}
        # Files of an object store are there whole or not at all, and each is a request.
        for cache in (Cache(one) for one in sorted(folders) if store.is_local(one)):
            cache.open()
            if cache.damaged:
                told = f"{cache.damaged:,} damaged lines; they are skipped, and asked for again"
                print(f"warning: answers in {cache.folder}: {told}", file=sys.stderr)
            cache.close()

    def made(self, context: Context) -> dict[str, Engine]:
        """Its engines as they work in a run, not opened."""
        made = {}
        for name, described in self._described().items():
            # What was spent belongs to the run: its next start goes on counting. One engine of a
            # step counts as the step, so limits hold for all that it asks.
            spent = store.join(context.out_dir, "spent", context.step) if context.out_dir else None
            if spent and name != "engine":
                spent = store.join(spent, name)
            made[name] = engines.make(described, spent)
        return made

    def open(self, context: Context) -> None:
        self._seed = context.seed
        self._attempt = context.attempt
        self.engines = self.made(context)
        for engine in self.engines.values():
            engine.open()

    def ask(
        self,
        prompt: Prompt,
        subject: Subject,
        wanted: Wanted,
        row: str,
        seed: int,
        attempt: int = 0,
    ) -> Ask:
        """What is asked about a row: the same for it wherever and whenever it is asked."""
        again = (str(attempt),) if attempt else ()
        drawn = int(schema.content_id("ask", str(seed), row, *again)[:8], 16) & 0x7FFF_FFFF
        return Ask(
            messages=prompt.messages(subject, wanted),
            schema=prompt.answer_schema,
            max_tokens=self.settings.max_tokens,  # type: ignore[attr-defined]
            temperature=self.settings.temperature,  # type: ignore[attr-defined]
            seed=drawn,
        )

    def replies(
        self,
        prompt: Prompt,
        subjects: Mapping[str, Subject],
        wanted: Wanted,
        engine: str = "engine",
    ) -> dict[str, Reply]:
        """A reply for every row, by its id.

        Where failed rows are tried again, wrong answers come again as they were kept, and such
        rows are then asked with other seeds, one for each time.
        """
        found: dict[str, Reply] = {}
        drawn = self.settings.temperature > 0  # type: ignore[attr-defined]
        for attempt in range(1 + (self._attempt if drawn else 0)):
            todo = {
                name: one
                for name, one in subjects.items()
                if name not in found or found[name].rule in structured.WRONG
            }
            if not todo:
                break
            make = functools.partial(self._asked, prompt, wanted, attempt)
            asks = _Asks(list(todo.items()), make)
            answered = structured.replies(self.engines[engine], asks, prompt.shape)
            found |= dict(zip(todo, answered, strict=True))
        return {name: found[name] for name in subjects}

    def _asked(
        self, prompt: Prompt, wanted: Wanted, attempt: int, name: str, subject: Subject
    ) -> Ask:
        return self.ask(prompt, subject, wanted, name, self._seed, attempt)

    def unfit(self, prompt: Prompt, subject: Subject) -> tuple[str, str] | None:
        """The rule and detail that reject a row before anything is asked."""
        for name in sorted(prompt.needs & set(_NEEDED)):
            if not getattr(subject, name):
                return _NEEDED[name], f"prompt '{prompt.name}' tells the model {name}"
        most = self.settings.max_caption_chars  # type: ignore[attr-defined]
        if (longest := subject.longest()) > most:
            return "caption_too_long", f"{longest} > {most} characters"
        return None


def _of(name: str, line: str) -> str:
    """A fault of an engine, by the setting that describes it."""
    return name + line.removeprefix("engine") if line.startswith("engine:") else line


class _Asks(Sequence[Ask]):
    """Asks that are made when they are looked at, and kept."""

    def __init__(
        self, subjects: Sequence[tuple[str, Subject]], make: Callable[[str, Subject], Ask]
    ) -> None:
        self._subjects = subjects
        self._make = make
        self._made: list[Ask | None] = [None] * len(subjects)

    def __len__(self) -> int:
        return len(self._subjects)

    @overload
    def __getitem__(self, place: int) -> Ask: ...

    @overload
    def __getitem__(self, place: slice) -> list[Ask]: ...

    def __getitem__(self, place: int | slice) -> Ask | list[Ask]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        made = self._made[place]
        if made is None:
            made = self._made[place] = self._make(*self._subjects[place])
        return made
