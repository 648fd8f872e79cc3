"""One process at a time on a run directory.

Locally the operating system holds the lock, so a killed owner never blocks its successor. On an
object store the lock is an object that its owner renews; it is void when it was not renewed for
:data:`STALE` seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from filelock import FileLock, Timeout

from datagen import store
from datagen.errors import DatagenError

STALE = 120.0
RENEW = 20.0
NAME = "run.lock"


@contextlib.contextmanager
def locked(out: str) -> Iterator[None]:
    """Hold the run directory ``out``. Raises DatagenError at once where another process has it."""
    with _local(out) if store.is_local(out) else _remote(out):
        yield


def _owner() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextlib.contextmanager
def _local(out: str) -> Iterator[None]:
    path = os.path.join(store.local_path(out), NAME)
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DatagenError(
            f"{out}: another process is at work on this run; wait for it, "
            "or choose another folder with --out"
        ) from None
    except OSError as error:
        raise DatagenError(
            f"{out}: cannot be locked ({error.strerror}); "
            "choose a folder that can be written, with --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _remote(out: str) -> Iterator[None]:
    path = store.join(out, NAME)
    mine = uuid.uuid4().hex

    def renew() -> None:
        note = {"owner": _owner(), "id": mine, "renewed": time.time()}
        store.write_bytes(path, json.dumps(note).encode())

    if store.exists(path):
        note = store.read_json(path)
        age = time.time() - float(note.get("renewed", 0))
        if age < STALE:
            raise DatagenError(
                f"{out}: {note.get('owner')} was at work on this run {age:.0f} s ago; wait for "
                f"it, or {STALE:.0f} s if it died"
            )
    renew()
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(RENEW):
            with contextlib.suppress(DatagenError, OSError):
                renew()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        if store.read_json(path).get("id") != mine:
            raise DatagenError(f"{out}: another process took this run at the same moment")
        yield
    finally:
        stop.set()
        thread.join()
        fs, inner = store.filesystem(path)
        with contextlib.suppress(OSError):
            fs.rm_file(inner)
