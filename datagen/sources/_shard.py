"""Media that a source holds only inside its own files, written as tar shards of a run."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Sequence

from datagen import store


def write(folder: str, kind: str, members: Sequence[tuple[str, bytes]]) -> tuple[str, list[int]]:
    """Write named bytes to ``KIND-HASH.tar`` below ``folder``; its path, and where each begins.

    The name is a hash of what is in it and the same members give the same bytes, so a part that
    is read again finds its shard, or replaces it by itself. No member names an owner or a time.
    """
    digest = hashlib.blake2b(digest_size=12)
    headers, offsets, at = [], [], 0
    for name, data in members:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        headers.append(info.tobuf(tarfile.USTAR_FORMAT))
        offsets.append(at + len(headers[-1]))
        at = offsets[-1] + len(data) + -len(data) % tarfile.BLOCKSIZE
        digest.update(headers[-1])
        digest.update(data)
    end = at + 2 * tarfile.BLOCKSIZE
    end += -end % tarfile.RECORDSIZE
    path = store.join(folder, f"{kind}-{digest.hexdigest()}.tar")
    if store.exists(path) and store.size(path) == end:
        return path, offsets
    with store.writing(path) as file:
        for header, (_, data) in zip(headers, members, strict=True):
            file.write(header)
            file.write(data)
            file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        file.write(bytes(end - at))
    return path, offsets
