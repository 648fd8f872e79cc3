"""Send a run to a Ray cluster as a Ray job, and follow it.

What travels: the recipe with its overrides resolved, the files that its steps name (operators of
one's own, prompts), and this package, so that the cluster runs the same code. What does not: the
source and the run directory, which every node must be able to reach under the same path.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from datagen import recipe_file, store
from datagen.cluster.connect import PATIENCE, package_environment
from datagen.errors import DatagenError

#: Files that a recipe names travel up to this size, in bytes.
LARGEST_FILE = 16 << 20
#: How often a lost connection to the job server is tried again, a second apart.
TRIES = 30

_OPERATOR = re.compile(r"(?P<file>[^\n]+\.py)(?P<rest>:\w+)")
_MAGIC = re.compile(r"[*?\[{]")

#: Loggers of Ray that tell of every upload.
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)

Say = Callable[[str], None]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass
class Parcel:
    """What is sent: a folder to upload, the command to run in it, and warnings for the user."""

    folder: str
    command: list[str]
    warnings: list[str] = field(default_factory=list)


def submit(
    recipe: str,
    overrides: Iterable[str],
    out: str,
    address: str | None = None,
    *,
    wait: bool = True,
    retry_failed: bool = False,
    requirements: str | None = None,
    variables: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
    say: Say = _to_stderr,
) -> int:
    """Run ``recipe`` on the cluster whose job server is at ``address``; returns the exit code.

    address: ``http://HEAD:8265``; RAY_API_SERVER_ADDRESS by default. wait: follow the log to the
    end (else return 0 once the job is accepted). requirements: a pip requirements file that the
    nodes install first. variables: environment of the job. command: run this instead of
    ``python -m datagen run``. Raises DatagenError.
    """
    server = job_server(address)
    client = _client(server)
    with tempfile.TemporaryDirectory(prefix="datagen-submit-") as folder:
        parcel = pack(recipe, overrides, out, folder, retry_failed)
        if not _here(server):
            for warning in parcel.warnings:
                say(f"warning: {warning}")
        environment = {
            **package_environment(),
            "working_dir": parcel.folder,
            "env_vars": {"PYTHONUNBUFFERED": "1", **(variables or {})},
        }
        if requirements is not None:
            if not os.path.isfile(requirements):
                raise DatagenError(f"--requirements {requirements}: no such file")
            environment["pip"] = requirements
        job = f"datagen-{Path(parcel.command[4]).stem}-{uuid.uuid4().hex[:8]}"
        with _one_line(server):
            client.submit_job(
                entrypoint=shlex.join(command or parcel.command),
                submission_id=job,
                runtime_env=environment,
                metadata={"recipe": recipe, "out": parcel.command[6]},
            )
    say(f"submitted {job}")
    if wait:
        return follow(job, server, say=say)
    say(_how_to(job, server))
    return 0


def follow(
    job: str,
    address: str | None = None,
    write: Callable[[str], object] | None = None,
    say: Say = _to_stderr,
) -> int:
    """Print the log of ``job`` until it ends; returns its exit code.

    Ctrl-C stops following, not the job, and returns 130. A job that was stopped gives 143.
    """
    server = job_server(address)
    client = _client(server)
    write = write or _to_stdout
    try:
        _tail(client, job, server, write)
    except KeyboardInterrupt:
        say(f"\n{job} goes on.\n{_how_to(job, server)}")
        return 130
    with _one_line(server, job):
        info = client.get_job_info(job)
    status = str(info.status)
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        say(f"{job} was stopped")
        return 143
    if info.driver_exit_code is None:
        say(f"{job} failed before it began: {' '.join(str(info.message).split())[:600]}")
    return info.driver_exit_code or 1


def stop(job: str, address: str | None = None, say: Say = _to_stderr) -> None:
    """Stop ``job``. What it has done is kept: submit the same again to go on."""
    server = job_server(address)
    client = _client(server)
    with _one_line(server, job):
        stopped = client.stop_job(job)
    say(f"{job} is stopping" if stopped else f"{job} was not running")


def job_server(address: str | None) -> str:
    """The address of the job server as a URL. Raises DatagenError where none is given."""
    place = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not place:
        raise DatagenError(
            "--address: name the cluster's job server, for example --address http://HEAD:8265"
        )
    if place.startswith(("ray://", "auto", "local")) or place.endswith(":6379"):
        raise DatagenError(
            f"--address {place}: the job server expected, for example http://HEAD:8265 "
            "(the port of the cluster's dashboard)"
        )
    return place.rstrip("/") if "://" in place else f"http://{place.rstrip('/')}"


def pack(
    recipe: str, overrides: Iterable[str], out: str, folder: str, retry_failed: bool = False
) -> Parcel:
    """Put into ``folder`` all that a run of ``recipe`` needs besides source and run directory.

    Relative paths of the source and of ``out`` become absolute, for the job starts elsewhere.
    Raises DatagenError, RecipeError.
    """
    if not out:
        raise DatagenError("--out: name the run directory, for example --out s3://bucket/run")
    data, path = recipe_file.read(recipe, overrides)
    warnings: list[str] = []
    if "source" in data:
        data["source"] = _absolute(data["source"], warnings)
    data["steps"] = _with_files(data.get("steps"), path.parent, folder)
    place = store.local_path(out) if store.is_local(out) else out
    if store.is_local(out):
        warnings.append(f"--out {place} is a local path: every node must see it")
    name = f"{path.stem}.yaml"
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    Path(folder, name).write_text(text, encoding="utf-8")
    command = ["python", "-m", "datagen", "run", name, "--out", place]
    return Parcel(folder, command + ["--retry-failed"] * retry_failed, warnings)


def _absolute(source: Any, warnings: list[str]) -> Any:
    """Settings of a source, with what they name on this disk made absolute.

    ``path`` is a path; another setting is one only if it has a slash and names something from
    here, for it may as well be a column, or a file below ``path``.
    """
    if not isinstance(source, dict):
        return source
    root = source.get("path")

    def one(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [one(key, each) for each in value]
        if not isinstance(value, str) or not value or not store.is_local(value):
            return value
        if key != "path" and ("/" not in value or _stands(os.path.join(str(root or ""), value))):
            return value
        path = store.local_path(value)
        if not _stands(path) and not os.path.isabs(value):
            return value
        warnings.append(f"source.{key}={path} is a local path: every node must see it")
        return path

    return {key: one(key, value) for key, value in source.items()}


def _stands(path: str) -> bool:
    """Whether ``path``, or the folder that its pattern starts from, is on this disk."""
    start = _MAGIC.split(path)[0]
    return os.path.exists(path if start == path else os.path.dirname(start) or ".")


def _with_files(value: Any, base: Path, folder: str) -> Any:
    """Steps, with the files that they name copied into ``folder``."""
    if isinstance(value, dict):
        return {key: _with_files(one, base, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_files(one, base, folder) for one in value]
    if not isinstance(value, str):
        return value
    operator = _OPERATOR.fullmatch(value)
    place, rest = (operator["file"], operator["rest"]) if operator else (value, "")
    found = _file(place, base)
    if found is None:
        if operator:
            raise DatagenError(f"{place}: no such file (looked in {base} and {os.getcwd()})")
        return value
    goal = os.path.normpath(place)
    if os.path.isabs(goal) or goal.startswith(("..", "~")):
        digest = hashlib.sha256(found.read_bytes()).hexdigest()[:8]
        goal = f"files/{digest}/{found.name}"
    target = Path(folder, goal)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found, target)
    return goal + rest


def _file(place: str, base: Path) -> Path | None:
    """The small file meant by ``place``, from the recipe's folder or the working directory."""
    if len(place) > 512 or "\n" in place or "://" in place or not os.path.splitext(place)[1]:
        return None
    for folder in (base, Path()):
        path = Path(folder, os.path.expanduser(place))
        if path.is_file():
            if path.stat().st_size > LARGEST_FILE:
                raise DatagenError(
                    f"{place}: {path.stat().st_size >> 20} MiB is too large to travel with the "
                    f"job (at most {LARGEST_FILE >> 20}); put it on storage that all nodes see"
                )
            return path
    return None


def _here(server: str) -> bool:
    """Whether the server is this very machine."""
    host = urlsplit(server).hostname or ""
    return host in {"localhost", "::1", socket.gethostname(), socket.getfqdn()} or (
        host.startswith("127.")
    )


def _client(server: str) -> Any:
    """A client of the job server. Raises DatagenError within seconds where none answers."""
    parts = urlsplit(server)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=PATIENCE).close()
    except OSError as error:
        raise DatagenError(
            f"--address {server}: no answer ({error}); is the cluster up, and is its dashboard "
            "port (8265) reachable from here?"
        ) from error
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _one_line(server):
        return JobSubmissionClient(server)


class _one_line:
    """Turns what the job client raises into one line."""

    def __init__(self, server: str, job: str = "") -> None:
        self.server, self.job = server, job

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, DatagenError):
            return
        text = " ".join(str(error).split())
        if "ray[default]" in text:
            line = "submitting needs the cluster extra: pip install 'datagen[cluster]'"
        elif "401" in text or "403" in text or "token" in text.lower():
            line = (
                f"--address {self.server}: the cluster asks for Ray's token; set "
                "RAY_AUTH_MODE=token, with the cluster's token in RAY_AUTH_TOKEN or the file "
                "named by RAY_AUTH_TOKEN_PATH"
            )
        elif "404" in text and self.job:
            line = f"{self.job}: the cluster at {self.server} knows no such job"
        else:
            line = f"--address {self.server}: {type(error).__name__}: {text[:300]}"
        raise DatagenError(line) from error


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _tail(client: Any, job: str, server: str, write: Callable[[str], object]) -> None:
    """Write the log as it grows; survive a connection that breaks, without repeating a line."""
    written = 0

    async def once() -> None:
        nonlocal written
        skip = written  # the server begins at the first line each time
        async for chunk in client.tail_job_logs(job):
            rest = chunk[skip:] if skip < len(chunk) else ""
            skip = max(0, skip - len(chunk))
            if rest:
                write(rest)
                written += len(rest)

    with _one_line(server, job):
        client.get_job_status(job)
    failures = 0
    while True:
        try:
            asyncio.run(once())
            ended = client.get_job_status(job).is_terminal()
            failures = 0
        except BrokenPipeError:  # whoever read our output has gone
            raise
        except (RuntimeError, OSError) as error:
            ended, failures = False, failures + 1
            if failures > TRIES:
                raise DatagenError(
                    f"{job}: lost the connection to {server} ({error}); the job may go on, "
                    f"follow it with 'datagen submit --follow {job} --address {server}'"
                ) from error
        if ended:
            break
        time.sleep(1)
    with _one_line(server, job):
        write(client.get_job_logs(job)[written:])


def _how_to(job: str, server: str) -> str:
    return (
        f"  follow it:  datagen submit --follow {job} --address {server}\n"
        f"  stop it:    datagen submit --stop {job} --address {server}"
    )
