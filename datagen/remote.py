"""Object stores and other far file systems, through fsspec: few requests, errors of one line."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import IO, Any

import fsspec

from datagen.errors import DatagenError

#: Seconds that a store may take to its first answer.
PATIENCE = 20.0
#: Uploads up to this size (bytes) are one request; larger ones go in pieces that the store joins.
ONE_REQUEST = 64 << 20
#: Stores without real folders. Making one would ask for the bucket each time, and s3fs would
#: make a bucket that is not there.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "memory"})

_CREDENTIALS = (
    "no credentials for this store; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
)
_UNREACHED = "no answer from this store; is its address right (AWS_ENDPOINT_URL), and is it up?"

#: What the names of the libraries' own exceptions mean: s3fs lets those of botocore through.
_MEANINGS = {
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "ProfileNotFound": "AWS_PROFILE names a profile that is not there",
    "DefaultCredentialsError": "no credentials for this store; set GOOGLE_APPLICATION_CREDENTIALS",
    "EndpointConnectionError": _UNREACHED,
    "ConnectTimeoutError": _UNREACHED,
    "ReadTimeoutError": _UNREACHED,
    "FSTimeoutError": _UNREACHED,
    "ClientConnectorError": _UNREACHED,
    "TimeoutError": _UNREACHED,
}


def protocol(path: str) -> str:
    """What stands before ``://``, in small letters."""
    return path.partition("://")[0].lower()


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system of ``path`` and the path within it.

    Listings are not cached: other processes write here too. Raises DatagenError where the
    protocol is unknown, its package is not installed or its settings are wrong.
    """
    try:
        with asking(path):
            fs, inner = fsspec.core.url_to_fs(path, use_listings_cache=False)
    except ImportError as error:
        extra = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}.get(protocol(path))
        mend = f"; pip install 'datagen[{extra}]'" if extra else ""
        raise DatagenError(f"{path}: {error}{mend}") from error
    return fs, inner


@contextlib.contextmanager
def asking(path: str, writing: bool = False) -> Iterator[None]:
    """Turn what a store throws into DatagenError of one line.

    FileNotFoundError and FileExistsError pass, as answers; when ``writing``, a missing place is
    a mistake of the user's.
    """
    try:
        yield
    except (DatagenError, FileExistsError, ImportError):
        raise
    except FileNotFoundError as error:
        if not writing:
            raise
        raise DatagenError(
            f"{path}: cannot be written ({_text(error)}); does the bucket exist?"
        ) from error
    except PermissionError as error:
        doing = "write" if writing else "read"
        raise DatagenError(
            f"{path}: no permission to {doing} here ({_text(error)}); check the credentials"
        ) from error
    except Exception as error:
        name = type(error).__name__
        plain = isinstance(error, (OSError, ValueError))
        meaning = _MEANINGS.get(name) or ("" if plain else f"{name}: ") + _text(error)
        raise DatagenError(f"{path}: {meaning}") from error


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def reach(path: str) -> None:
    """Raise DatagenError, within :data:`PATIENCE` seconds, unless the store of ``path`` answers.

    The libraries themselves try an address for minutes. Asked once per process and bucket.
    """
    kind, _, rest = path.partition("://")
    _reach(f"{kind}://{rest.partition('/')[0]}")


@functools.lru_cache(maxsize=64)
def _reach(root: str) -> None:
    problem: list[BaseException] = []

    def ask() -> None:
        try:
            with asking(root):
                fs, inner = _impatient(root)
                fs.exists(f"{inner}/-")  # of the bucket itself s3fs never says what is wrong
        except Exception as error:
            problem.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        raise DatagenError(f"{root}: {_UNREACHED}")
    # That a bucket itself may not be looked at says nothing about what lies in it.
    if problem and not isinstance(problem[0].__cause__, PermissionError):
        raise problem[0]


def _impatient(root: str) -> tuple[Any, str]:
    """The file system of ``root``; of S3 one that tries once, not two dozen times."""
    if protocol(root) not in ("s3", "s3a"):
        return filesystem(root)
    config = dict(fsspec.config.conf.get("s3", {}).get("config_kwargs", {}))
    config |= {"connect_timeout": 5, "read_timeout": 10, "retries": {"max_attempts": 1}}
    fs, inner = fsspec.core.url_to_fs(root, config_kwargs=config, use_listings_cache=False)
    fs.retries = 1
    return fs, inner


def stamp(info: Mapping[str, Any]) -> str:
    """What changes when a file does: its size, and the store's hash or time.

    Only chosen fields count, as a listing and a question after one file tell different ones.
    """
    hashes = ("ETag", "etag", "md5Hash", "content_md5", "md5", "crc32c", "checksum")
    times = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
    for name in (*hashes, *times):
        if info.get(name):
            return f"{info.get('size')}-{info[name]}"
    return str(info.get("size"))


def read(path: str, offset: int, size: int | None) -> bytes:
    """``size`` bytes from ``offset``, fewer where the file ends before: one request."""
    fs, inner = filesystem(path)
    end = None if size is None else offset + size
    if size == 0:
        return b""
    with asking(path):
        try:
            # Without a start s3fs would ask for the size first.
            return bytes(fs.cat_file(inner, start=offset, end=end))
        except OSError:
            # S3 refuses a range that begins at the end, also that of an empty file.
            if int(fs.info(inner)["size"]) <= offset:
                return b""
            raise


@contextlib.contextmanager
def uploading(path: str) -> Iterator[IO[bytes]]:
    """A local file that becomes ``path`` when the block ends without an error."""
    fs, inner = filesystem(path)
    with tempfile.NamedTemporaryFile() as file:
        yield file
        size = file.seek(0, io.SEEK_END)
        with asking(path, writing=True):
            if protocol(path) not in OBJECT_STORES:
                fs.makedirs(fs._parent(inner), exist_ok=True)
            if size <= ONE_REQUEST:
                file.seek(0)
                fs.pipe_file(inner, file.read())
            else:
                file.flush()
                fs.put_file(file.name, inner)


def create(path: str, data: bytes) -> bool:
    """Write ``path`` unless it is there; says whether it was written.

    One indivisible step on stores that know conditional writes (S3, Google Cloud), a question
    and a write on others.
    """
    fs, inner = filesystem(path)
    with asking(path, writing=True):
        try:
            if protocol(path) not in OBJECT_STORES:
                fs.makedirs(fs._parent(inner), exist_ok=True)
            fs.pipe_file(inner, data, mode="create")
            return True
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):
            if fs.exists(inner):
                return False
            fs.pipe_file(inner, data)
            return True
