"""Answers that are kept by what was asked, shared between runs and workers.

A folder of files, one for every writer, each line one answer: its key, a checksum, and JSON. A
line is handed to the operating system whole, in the moment when the answer is there, so a killed
process loses none; a line that was cut or damaged is skipped and counted. Nobody writes another's
file, so workers of several machines may share a folder on a network disk, and see each other's
answers after :data:`EVERY` seconds. In an object store, where nothing can be appended, a writer
puts a file of its own there every :data:`EVERY` seconds; a killed one loses what it had since.

The files hold answers and no questions. The folder may be deleted at any time: what is needed
again is asked again.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from datagen import store
from datagen.chat import _lines
from datagen.chat._index import Index, Place, hash_of
from datagen.chat.ask import Answer, Ask, Each, Engine
from datagen.errors import DatagenError

#: Seconds between two looks at what others wrote, and between two files in an object store.
EVERY = 5.0


def default_folder() -> str:
    """``$DATAGEN_ANSWERS``, or ``datagen/answers`` in the user's folder of caches."""
    top = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.environ.get("DATAGEN_ANSWERS") or os.path.join(top, "datagen", "answers")


class Cache:
    """Answers in ``folder`` (any path of datagen.store); safe to use from several threads.

    damaged: lines that were skipped since ``open``.
    """

    def __init__(self, folder: str | None = None) -> None:
        folder = folder or default_folder()
        self.folder = store.local_path(folder) if store.is_local(folder) else folder
        self.damaged = 0
        self._lock = threading.RLock()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def _forget(self) -> None:
        self._index = Index()
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._read_to: dict[str, int] = {}
        self._looked = float("-inf")
        self._own: int | None = None
        self._own_name = ""
        self._waiting: list[bytes] = []
        self._since = 0.0

    def __len__(self) -> int:
        """Answers that are known here, those that two writers had at once counted twice."""
        return self._index.count

    def open(self) -> None:
        """Read what there is. Raises DatagenError where the folder cannot be made or read."""
        with self._lock:
            if store.is_local(self.folder):
                try:
                    os.makedirs(self.folder, mode=0o700, exist_ok=True)
                except OSError as error:
                    raise self._explained(error) from error
            self._look()

    def close(self) -> None:
        """Write what is still to be written, and let go of the files."""
        with self._lock:
            self._flush()
            if self._own is not None:
                os.close(self._own)
            self._forget()

    # ------------------------------------------------------------ reading

    def get(self, keys: Sequence[str]) -> list[Answer | None]:
        """The answer of every key, None where there is none.

        Of several answers to one ask the first in the order of their bytes is taken, whichever
        file it lies in.
        """
        with self._lock:
            if time.monotonic() - self._looked >= EVERY:
                self._look()
            if store.is_local(self.folder):
                return [self._get(key) for key in keys]
            # Each answer in a far store is a request that waits.
            with ThreadPoolExecutor(16) as pool:
                return list(pool.map(self._get, keys))

    def _get(self, key: str) -> Answer | None:
        lines = [self._at(place) for place in self._index.find(hash_of(key))]
        for line in sorted(line for line in lines if line[: _lines.KEY] == key.encode("ascii")):
            parsed = _lines.parse(line)
            if parsed is not None:
                return parsed[1]
        return None

    def _at(self, place: Place) -> bytes:
        number, first, size = place
        try:
            return store.read_bytes(store.join(self.folder, self._names[number]), first, size)
        except FileNotFoundError:
            return b""  # the folder was emptied meanwhile

    def _look(self) -> None:
        """Index what was written since the last look."""
        self._looked = time.monotonic()
        for name, size in self._sizes():
            if name == self._own_name or size <= self._seen.get(name, 0):
                continue
            try:
                self._read_to[name] = self._index_file(name, self._read_to.get(name, 0))
                self._seen[name] = size
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._explained(error) from error

    def _sizes(self) -> Iterator[tuple[str, int]]:
        for name in store.names(self.folder):
            if name.startswith("answers-") and name.endswith(".jsonl"):
                try:
                    # Files of an object store never grow: one look at each is enough.
                    far = not store.is_local(self.folder) and name in self._seen
                    yield name, 0 if far else store.size(store.join(self.folder, name))
                except FileNotFoundError:
                    continue

    def _index_file(self, name: str, start: int) -> int:
        """Index the whole lines of a file from ``start``; where the last of them ends."""
        fs, inner = store.filesystem(store.join(self.folder, name))
        number = self._number(name)
        # The plain file reads lines many times faster than fsspec's.
        with open(inner, "rb") if store.is_local(self.folder) else fs.open(inner, "rb") as file:
            file.seek(start)
            for line in _lines.lines(file):
                if line is None:
                    break  # another writer is at it, or was killed there
                if _lines.sound(line[0]):
                    self._index.add(hash_of(line[0]), (number, start, line[1]))
                else:
                    self.damaged += 1
                start += line[1]
        return start

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._names)
            self._names.append(name)
        return self._numbers[name]

    # ------------------------------------------------------------ writing

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer that has a text; others are not kept, and asked again.

        Raises DatagenError where the disk is full.
        """
        if answer.text is None:
            return
        line = _lines.line_of(key, answer)
        with self._lock:
            if store.is_local(self.folder):
                self._append(key, line)
                return
            self._since = self._since if self._waiting else time.monotonic()
            self._waiting.append(line)
            if time.monotonic() - self._since >= EVERY:
                self._flush()

    def _append(self, key: str, line: bytes) -> None:
        try:
            if self._own is None:
                self._own_name = f"answers-{uuid.uuid4().hex}.jsonl"
                path = os.path.join(self.folder, self._own_name)
                self._own = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
                self._read_to[self._own_name] = 0
            start = self._read_to[self._own_name]
            done = os.write(self._own, line)
        except OSError as error:
            self._leave_file()
            raise self._explained(error) from error
        if done < len(line):
            # Nothing may be written behind half a line.
            self._leave_file()
            raise DatagenError(f"{self.folder}: the disk is full; free some space and run again")
        self._read_to[self._own_name] = start + len(line)
        self._index.add(hash_of(key), (self._number(self._own_name), start, len(line)))

    def _leave_file(self) -> None:
        if self._own is not None:
            os.close(self._own)
            # What stands there is indexed already; half a line never is.
            self._seen[self._own_name] = 1 << 62
        self._own, self._own_name = None, ""

    def flush(self) -> None:
        """Put what waits into the object store; on a disk every answer is there already."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        name = f"answers-{uuid.uuid4().hex}.jsonl"
        store.write_bytes(store.join(self.folder, name), b"".join(self._waiting))
        number, start = self._number(name), 0
        for line in self._waiting:
            self._index.add(hash_of(line), (number, start, len(line)))
            start += len(line)
        self._seen[name] = start
        self._waiting = []

    def _explained(self, error: OSError) -> DatagenError:
        return DatagenError(f"answers in {store.explained(self.folder, error)}")


#: Asks that are made ready together, while others wait for servers; and the first of a batch, for
#: which nobody waits yet.
PART, FIRST = 256, 32


class Cached:
    """An engine that asks only what was not answered before, and keeps every answer at once.

    Asks that are equal are sent once. model, revision: what keys go by; those of the engine.
    """

    def __init__(
        self, engine: Engine, cache: Cache, model: str | None = None, revision: str | None = None
    ) -> None:
        self.engine = engine
        self.cache = cache
        self._model = model
        self._revision = revision

    @property
    def model(self) -> str:
        return self.engine.model if self._model is None else self._model

    @property
    def revision(self) -> str:
        return self.engine.revision if self._revision is None else self._revision

    def open(self) -> None:
        self.cache.open()
        self.engine.open()

    def answer(self, asks: Sequence[Ask], each: Each | None = None) -> list[Answer]:
        batch = _Batch(self, asks, each)
        size = len(asks)
        try:
            if len(asks) <= PART or not getattr(self.engine, "overlaps", False):
                batch.part(range(size))
            else:
                # Servers are kept busy while the next asks are made ready.
                with ThreadPoolExecutor(2, thread_name_prefix="datagen-asks") as two:
                    for _ in two.map(batch.part, _parts(size)):
                        pass
        finally:
            self.cache.flush()
        return batch.answers()

    def close(self) -> None:
        self.engine.close()
        self.cache.close()


def _parts(size: int) -> Iterator[range]:
    """The numbers below ``size`` in parts that grow."""
    start, part = 0, min(FIRST, PART)
    while start < size:
        yield range(start, min(size, start + part))
        start, part = start + part, min(PART, 2 * part)


class _Batch:
    """Asks of one call, answered in one part or in several at once."""

    def __init__(self, cached: Cached, asks: Sequence[Ask], each: Each | None) -> None:
        self.cached = cached
        self.asks = asks
        self.each = each
        self.keys: list[str] = [""] * len(asks)
        self.known: dict[str, Answer] = {}
        #: Asks that wait for the answer of a key, the first of which was sent.
        self.places: dict[str, list[int]] = {}
        self.stopped = False
        self._lock = threading.Lock()

    def part(self, numbers: Sequence[int]) -> None:
        """Answer the asks of these ``numbers``. Raises what the engine raises."""
        if self.stopped:
            return
        model, revision = self.cached.model, self.cached.revision
        asks = [self.asks[number] for number in numbers]
        keys = [ask.key(model, revision) for ask in asks]
        found = self.cached.cache.get(keys)
        missing: list[str] = []
        sent: list[Ask] = []
        told: list[tuple[int, Answer]] = []
        with self._lock:
            for number, ask, key, answer in zip(numbers, asks, keys, found, strict=True):
                self.keys[number] = key
                answer = self.known.get(key) or answer
                if answer is not None:
                    self.known[key] = answer
                    told.append((number, answer))
                elif key in self.places:
                    self.places[key].append(number)
                else:
                    self.places[key] = [number]
                    missing.append(key)
                    sent.append(ask)
        if self.each is not None:
            for number, answer in told:
                self.each(number, replace(answer, cached=True))

        def keep(place: int, answer: Answer) -> None:
            key = missing[place]
            self.cached.cache.put(key, answer)
            with self._lock:
                self.known[key] = answer
                first, *others = self.places.pop(key)
            if self.each is not None:
                self.each(first, answer)
                for number in others:
                    self.each(number, replace(answer, cached=True))

        try:
            if sent:
                self.cached.engine.answer(sent, keep)
        except BaseException:
            self.stopped = True
            raise

    def answers(self) -> list[Answer]:
        """The answers of all asks, in their order."""
        out, told = [], set()
        for key in self.keys:
            answer = self.known.get(key)
            if answer is None:
                raise RuntimeError("an engine told of no answer for an ask")
            out.append(replace(answer, cached=True) if key in told else answer)
            told.add(key)
        return out
