"""One process at a time on a run directory.

Locally the operating system holds the lock, so a killed owner never blocks its successor. On an
object store the lock is an object that only one process can create, and that its owner renews. It
is void when it was not renewed for :data:`STALE` seconds, and at once for a successor on the same
machine: there the operating system holds a second lock that tells whether the owner is dead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from filelock import FileLock, Timeout

from datagen import cache, remote, store
from datagen.errors import DatagenError

STALE = 120.0
RENEW = 20.0
#: Seconds after which of two takers the last one is known.
SETTLE = 1.0
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
    with _held(os.path.join(store.local_path(out), NAME), out):
        yield


@contextlib.contextmanager
def _remote(out: str) -> Iterator[None]:
    folder = cache.own_folder("locks")
    beside = os.path.join(folder, hashlib.sha256(out.encode()).hexdigest()[:32])
    with _held(beside, out):
        lease = _Lease(store.join(out, NAME), out, _machine(folder))
        lease.take()
        try:
            yield
        except KeyboardInterrupt:
            if lease.lost:
                raise DatagenError(
                    f"{out}: another process has taken this run over; this one stopped"
                ) from None
            raise
        finally:
            lease.give_back()


@contextlib.contextmanager
def _held(path: str, out: str) -> Iterator[None]:
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


def _machine(folder: str) -> str:
    """A random name that all processes have in common that see the same local locks."""
    path = os.path.join(folder, "machine")
    if not os.path.exists(path):
        beside = f"{path}.{uuid.uuid4().hex}"
        with open(beside, "w", encoding="ascii") as file:
            file.write(uuid.uuid4().hex)
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)  # the first one stays, whoever comes second
        os.unlink(beside)
    with open(path, encoding="ascii") as file:
        return file.read()


class _Lease:
    """The lock object at ``path``, and the thread that renews it."""

    def __init__(self, path: str, out: str, machine: str) -> None:
        self.path = path
        self.out = out
        self.machine = machine
        self.id = uuid.uuid4().hex
        self.lost = False
        self._holder = threading.current_thread()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def take(self) -> None:
        """Raises DatagenError where another process has the run."""
        if not remote.create(self.path, self._note()):
            self._refuse_unless_void(self._read())
            store.write_bytes(self.path, self._note())
            # Two successors of a dead owner may both have come this far; the last one has it.
            time.sleep(SETTLE)
            if self._read().get("id") != self.id:
                raise DatagenError(f"{self.out}: another process took this run at the same moment")
        self._thread.start()

    def give_back(self) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(DatagenError, OSError):
            if not self.lost and self._read().get("id") == self.id:
                store.remove(self.path)

    def _refuse_unless_void(self, note: dict[str, Any]) -> None:
        # The local lock is ours, so an owner on this machine is dead.
        age = time.time() - float(note.get("renewed") or 0)
        if age < STALE and note.get("machine") != self.machine:
            raise DatagenError(
                f"{self.out}: {note.get('owner')} was at work on this run {age:.0f} s ago; wait "
                f"for it, or {STALE:.0f} s if it died"
            )

    def _note(self) -> bytes:
        note = {
            "owner": _owner(),
            "machine": self.machine,
            "id": self.id,
            "renewed": time.time(),
        }
        return json.dumps(note).encode()

    def _read(self) -> dict[str, Any]:
        try:
            note = json.loads(store.read_bytes(self.path))
        except (FileNotFoundError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def _keep(self) -> None:
        while not self._stop.wait(RENEW):
            with contextlib.suppress(DatagenError, OSError):
                if self._read().get("id") not in (self.id, None):
                    # This process slept through its time. What it wrote is what the other one
                    # writes, but two would do the work twice.
                    self.lost = True
                    if self._holder is threading.main_thread():
                        # Ctrl-C is ignored by what a script has put into the background.
                        quiet = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
                        stop = signal.SIGTERM if quiet else signal.SIGINT
                        signal.pthread_kill(self._holder.ident or 0, stop)
                    return
                store.write_bytes(self.path, self._note())
