"""Reading many media from far stores at once, where one request after another would wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from datagen import media, store

#: How many files are read at once, and how many bytes of them are held.
REQUESTS, AHEAD = 16, 128 << 20
#: Of unknown size, these may be large.
CLIPS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")


def read_ahead(
    places: Sequence[Mapping[str, Any]], limits: media.Limits = media.DEFAULT
) -> Iterator[bytes | media.MediaError]:
    """What :func:`datagen.media.read` gives or raises for each of ``places``, in their order.

    From far stores up to :data:`REQUESTS` are under way at once, and no more than
    :data:`AHEAD` bytes as far as sizes are known; local files are read when they are wanted.
    """

    def one(where: Mapping[str, Any]) -> bytes | media.MediaError:
        try:
            return media.read(where, limits)
        except media.MediaError as error:
            return error

    if all(store.is_local(where.get("path") or "") for where in places):
        yield from map(one, places)
        return
    with ThreadPoolExecutor(REQUESTS) as pool:
        waiting: deque[tuple[Future[bytes | media.MediaError], int]] = deque()
        held = 0
        for where in places:
            clip = (where.get("path") or "").lower().endswith(CLIPS)
            size = where.get("size") or (AHEAD if clip else AHEAD // REQUESTS)
            while waiting and (held + size > AHEAD or len(waiting) == REQUESTS):
                future, freed = waiting.popleft()
                held -= freed
                yield future.result()
            waiting.append((pool.submit(one, where), size))
            held += size
        for future, _ in waiting:
            yield future.result()
