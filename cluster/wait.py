"""``python -m datagen.cluster.wait HOST:PORT NODES``: until a cluster that is starting is whole."""

from __future__ import annotations

import sys
import time

from datagen.cluster.connect import connect
from datagen.errors import DatagenError


def wait(address: str, nodes: int, patience: float = 300.0) -> int:
    """Wait until ``nodes`` nodes of the cluster at ``address`` are alive; returns their number.

    Raises DatagenError when ``patience`` seconds were not enough.
    """
    end = time.monotonic() + patience
    last = "no node yet"
    while time.monotonic() < end:
        try:
            with connect(address) as cluster:
                if len(cluster.nodes) >= nodes:
                    return len(cluster.nodes)
                last = f"{len(cluster.nodes)} of {nodes} nodes"
        except DatagenError as error:
            last = str(error)
        time.sleep(1)
    raise DatagenError(f"{address}: not up after {patience:.0f} s ({last})")


if __name__ == "__main__":
    try:
        print(f"{wait(sys.argv[1], int(sys.argv[2]))} nodes")
    except DatagenError as error:
        sys.exit(f"error: {error}")
