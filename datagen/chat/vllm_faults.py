"""Why vLLM did not start, or ended, in one line.

Its engine runs in processes of its own: what Ray passes on often says no more than that one of
them failed, and the reason stands in the logs of Ray's workers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from datagen.chat.ask import one_line

#: The end of a traceback, behind whatever a logger puts before it.
_RAISED = re.compile(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception)): (\S.*)$")
#: What is raised because something else was.
_EMPTY = ("Engine core initialization failed", "WorkerProc initialization failed", "cancelled")
_OUT_OF_MEMORY = ("OutOfMemoryError", "out of memory", "less than desired GPU memory", "KV cache")
_MORE_MEMORY = (
    "set a larger tensor_parallel, a smaller max_model_len, or engine: {gpu_memory_utilization: …}"
)
#: Bytes of a log that are read, from its end.
_TAIL = 1 << 20


def cause(said: str, logs: Iterable[Path] = ()) -> str:
    """The line that says most. said: what was raised; logs: of workers since the engine began."""
    found = list(_raised(said.splitlines())) or [one_line(said)]
    if any(empty in found[-1] for empty in _EMPTY):
        found = [line for log in logs for line in _raised(_last(log))] or found
    telling = [line for line in found if not any(empty in line for empty in _EMPTY)]
    line = one_line((telling or found)[-1])
    if any(word in line for word in _OUT_OF_MEMORY):
        return f"{line}; {_MORE_MEMORY}"
    return line


def _raised(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        match = _RAISED.search(line)
        # Errors of Ray hold those of others.
        if match and not match[1].startswith(("ray.", "RayTask", "ActorDied")):
            yield f"{match[1].rpartition('.')[2]}: {match[2]}"


def _last(log: Path) -> list[str]:
    """The last lines of a log; none where it went away."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
