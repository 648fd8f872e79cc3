"""Connect to Ray: a local one started in this process, or a cluster that is already there.

Everything that could make a first run fail or fall silent for minutes is met here: an address
that nobody answers, another Ray version, a small ``/dev/shm``, a home that cannot be written,
Ray's own output and its usage statistics.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datagen
from datagen.cluster.resources import Node, local_cpus, memory_bytes
from datagen.errors import DatagenError

#: Seconds to wait for a TCP connection and for the first bytes of an answer.
PATIENCE = 4.0

#: Set before Ray is imported unless the user has set them: no usage statistics, no autoscaler
#: lines in the output.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SCHEDULER_EVENTS": "0"}

#: Set while connecting to a cluster: two attempts instead of twenty. A local Ray keeps its
#: twenty, for its head may take a while on a busy machine.
WHILE_CONNECTING = {"RAY_gcs_server_port_wait_time_s": "2"}

#: Ray's smallest object store is 75 MiB; below this a store in shared memory is not worth it.
SMALLEST_STORE = 256 << 20
LARGEST_STORE = 32 << 30
SHARE_OF_MEMORY = 0.3

#: HTTP/2 connection preface and an empty SETTINGS frame; a gRPC server answers with SETTINGS.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS = 0x04


@dataclass(frozen=True)
class Cluster:
    """The Ray that a run works on. ``local``: started by this process, and ended with it."""

    address: str
    nodes: tuple[Node, ...]
    local: bool

    @property
    def cpus(self) -> float:
        """Logical CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)


@contextlib.contextmanager
def connect(
    address: str | None = None, cpus: int | None = None, quiet: bool = True
) -> Iterator[Cluster]:
    """Connect to Ray for the length of a block.

    address: ``HOST:PORT`` of a head node, ``auto`` for the one on this machine, ``local`` for a
    new Ray in this process; None takes RAY_ADDRESS, else ``local``. cpus: logical CPUs of a local
    Ray. quiet: Ray's log lines and progress bars stay off the terminal (they are in its log
    files).

    Where the caller has initialised Ray already, that Ray is used and left running. A cluster
    gets this very package for its workers, so that driver and workers run the same code; inside a
    Ray job the job has brought it. Raises DatagenError, within seconds, where there is no cluster
    at the address, where it runs another version, or where it asks for a token.
    """
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    with _environment(place == "local"):
        import ray

        ours = not ray.is_initialized()
        if ours:
            _start(place, cpus, quiet)
    try:
        if quiet:
            _hush_data()
        yield _describe(local=ours and place == "local")
    finally:
        if ours:
            ray.shutdown()


def _start(place: str, cpus: int | None, quiet: bool) -> None:
    import ray

    options = _local_options(cpus) if place == "local" else _cluster_options(place)
    level = logging.ERROR if quiet else logging.INFO
    try:
        with _native_lines_off(quiet and place != "local"):
            ray.init(log_to_driver=not quiet, logging_level=level, **options)
    except Exception as error:
        raise _explained(place, error) from error
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler ends the process at once; a scheduler's SIGTERM shall stop a run as
        # Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def in_ray_job() -> bool:
    """Whether this process is the entry point of a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def package_folder() -> str:
    """The folder of this package, as Ray ships it (links to folders are followed)."""
    return os.path.dirname(os.path.abspath(datagen.__file__))


def package_environment() -> dict[str, Any]:
    """The part of a Ray runtime environment that brings this package to the workers."""
    return {"py_modules": [package_folder()], "excludes": ["**/__pycache__"]}


def _local_options(cpus: int | None) -> dict[str, Any]:
    store, folder, warning = object_store(memory_bytes(), _free_shared_memory())
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    options: dict[str, Any] = {"_plasma_directory": folder} if folder else {}
    return {
        "address": "local",
        "num_cpus": cpus or local_cpus(),
        "include_dashboard": False,
        "object_store_memory": store,
        **options,
    }


def _cluster_options(place: str) -> dict[str, Any]:
    if place.startswith(("http://", "https://")):
        raise DatagenError(
            f"--address {place}: this is a job server; send the run there with "
            f"'datagen submit … --address {place}', or give HOST:6379 on a node of the cluster"
        )
    if place.startswith("ray://"):
        raise DatagenError(
            f"--address {place}: Ray Data does not work over Ray Client; send the run to the "
            "cluster with 'datagen submit … --address http://HEAD:8265'"
        )
    if place != "auto":
        _reach(place)
    options: dict[str, Any] = {"address": place}
    if not in_ray_job():
        options["runtime_env"] = package_environment()
    return options


def object_store(memory: int, shared: int | None) -> tuple[int, str | None, str | None]:
    """Size the object store of a local Ray: (bytes, folder, warning).

    memory: bytes that this process can get; shared: bytes free in /dev/shm (None where there is
    none, as on macOS). The store takes 30 % of the memory and stays within shared memory. Where
    that is too small (Docker gives 64 MB) it lies in a file on disk: slower, but it works.
    """
    wanted = max(SMALLEST_STORE, min(int(memory * SHARE_OF_MEMORY), LARGEST_STORE))
    if shared is None:
        return min(wanted, 2 << 30), None, None  # larger maps are slow on macOS
    if shared * 0.9 >= min(wanted, SMALLEST_STORE):
        return min(wanted, int(shared * 0.9)), None, None
    warning = (
        f"/dev/shm has {shared >> 20} MiB free, so Ray keeps objects in {tempfile.gettempdir()} "
        "(slower); in Docker, add --shm-size=2g"
    )
    return min(wanted, 2 << 30), tempfile.gettempdir(), warning


def _free_shared_memory() -> int | None:
    try:
        stats = os.statvfs("/dev/shm")
    except OSError:
        return None if sys.platform == "darwin" else 0
    return stats.f_bsize * stats.f_bavail


@contextlib.contextmanager
def _environment(local: bool) -> Iterator[None]:
    """Environment variables that hold while Ray is imported and connects."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if local:
        _token_without_home()
        yield
        return
    passing = [name for name in WHILE_CONNECTING if name not in os.environ]
    os.environ.update({name: WHILE_CONNECTING[name] for name in passing})
    try:
        yield
    finally:
        for name in passing:
            del os.environ[name]


@contextlib.contextmanager
def _native_lines_off(off: bool) -> Iterator[None]:
    """Keep what Ray's native code writes to standard error off the terminal.

    Each failed attempt to connect is a line there, before any setting of Ray's log level holds;
    the exception says the same.
    """
    if not off:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _token_without_home() -> None:
    """Ray writes the token of local clusters under the home folder; without one, pass another."""
    known = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    home = os.path.expanduser("~")
    folder = os.path.join(home, ".ray")
    if not known and not os.access(folder if os.path.isdir(folder) else home, os.W_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _reach(place: str) -> None:
    """Raise DatagenError unless a gRPC server answers at ``place``.

    Ray itself tries an address for two minutes before it gives up.
    """
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or not host:
        raise DatagenError(f"--address {place}: HOST:PORT expected, for example 10.0.0.5:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE) as line:
            line.settimeout(PATIENCE)
            line.sendall(_PREFACE)
            answer = line.recv(9)
    except OSError as error:
        raise DatagenError(
            f"--address {place}: no answer ({error}); is the head node up ('ray status' there), "
            "and is the port that of 'ray start' (6379)?"
        ) from error
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise DatagenError(
            f"--address {place}: something else than a Ray head answers there; give the port of "
            "'ray start' (6379), not that of the dashboard (8265)"
        )


def _explained(place: str, error: Exception) -> DatagenError:
    """One line for what ray.init raised."""
    chain: BaseException | None = error
    texts: list[str] = []
    while chain is not None:
        texts.append(f"{type(chain).__name__}: {chain}")
        chain = chain.__cause__ or chain.__context__
    text = "\n".join(texts)
    if isinstance(error, DatagenError):
        return error
    if "Version mismatch" in text:
        versions = [line.split(": ", 1)[1] for line in text.splitlines() if _names_version(line)]
        theirs, ours = versions[:2], versions[2:4]
        return DatagenError(
            f"--address {place}: the cluster runs Ray {' on Python '.join(theirs)}, this machine "
            f"Ray {' on Python '.join(ours)}; install the cluster's versions here, or use "
            "'datagen submit', which runs on the cluster"
        )
    if "AuthToken" in text or "AuthenticationError" in text:
        return DatagenError(
            f"--address {place}: the cluster asks for Ray's token; set RAY_AUTH_MODE=token, with "
            "the cluster's token in RAY_AUTH_TOKEN or the file named by RAY_AUTH_TOKEN_PATH"
        )
    if place == "auto":
        return DatagenError(
            "--address auto: no Ray runs on this machine; start one with 'ray start --head', or "
            "leave --address out"
        )
    first = " ".join(str(error).split())[:300]
    what = "Ray cannot start here" if place == "local" else f"--address {place}: cannot connect"
    mend = "see the newest folder in /tmp/ray" if place == "local" else "see 'ray status' there"
    return DatagenError(f"{what} ({type(error).__name__}: {first}); {mend}")


def _names_version(line: str) -> bool:
    return line.strip().startswith(("Ray: ", "Python: "))


def _hush_data() -> None:
    """Keep Ray Data's progress and plans off the terminal; its log file has them still."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    context.verbose_stats_logs = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def _describe(local: bool) -> Cluster:
    import ray

    nodes = []
    for node in ray.nodes():
        has = node.get("Resources", {})
        if node.get("Alive"):
            nodes.append(
                Node(
                    cpus=float(has.get("CPU", 0)),
                    gpus=float(has.get("GPU", 0)),
                    memory=int(has.get("memory", 0)),
                    name=str(node.get("NodeManagerHostname") or node.get("NodeID", "")),
                )
            )
    return Cluster(ray.get_runtime_context().gcs_address, tuple(nodes), local)
