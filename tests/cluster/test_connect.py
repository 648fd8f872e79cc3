from __future__ import annotations

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.cluster.connect import connect, object_store
from datagen.errors import DatagenError

pytestmark = pytest.mark.usefixtures("no_ray")  # A Ray that runs would be used at any address.

GIB = 1 << 30

LOCAL = """
import sys
from datagen.cluster.connect import connect
with connect(cpus=3) as cluster:
    import os, ray
    assert cluster.local and cluster.cpus == 3 and len(cluster.nodes) == 1, cluster
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    rows = ray.data.range(40).map_batches(lambda b: {"x": b["id"] + 1}, batch_size=10)
    assert sorted(row["x"] for row in rows.iter_rows()) == list(range(1, 41))
assert not ray.is_initialized()
"""

#: Where a worker of the cluster finds the package, and whether the linked folders came along.
WORKER = """
import sys
from datagen.cluster.connect import connect
with connect(sys.argv[1]) as cluster:
    import ray
    @ray.remote
    def where():
        import os, datagen, datagen.filters, datagen.cluster.connect, datagen.recipe_file
        folder = os.path.dirname(datagen.__file__)
        return folder, sorted(os.listdir(os.path.join(folder, "filters")))
    print(cluster.local, cluster.cpus, *ray.get(where.remote()), sep="|")
"""

CONNECT = """
import sys
from datagen.cluster.connect import connect
from datagen.errors import DatagenError
try:
    with connect(sys.argv[1]):
        print("connected")
except DatagenError as error:
    print(error)
"""


@given(memory=st.integers(0, 1 << 42), shared=st.none() | st.integers(0, 1 << 42))
def test_the_object_store_never_exceeds_shared_memory_and_is_never_below_rays_minimum(
    memory: int, shared: int | None
) -> None:
    size, folder, warning = object_store(memory, shared)
    assert size >= 75 << 20
    assert (folder is None) == (warning is None)
    if folder is None and shared is not None:
        assert size <= shared
    assert size <= max(256 << 20, memory)


def test_the_64_megabytes_of_docker_move_the_store_to_disk_with_one_line() -> None:
    size, folder, warning = object_store(8 * GIB, 64 << 20)
    assert folder is not None
    assert size <= 2 * GIB
    assert warning is not None
    assert "\n" not in warning
    assert "--shm-size" in warning


def test_a_shared_memory_that_is_smaller_than_wanted_is_used_rather_than_the_disk() -> None:
    assert object_store(16 * GIB, 2 * GIB) == (int(2 * GIB * 0.9), None, None)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://head:8265", "datagen submit"),
        ("ray://head:10001", "datagen submit"),
        ("head", "HOST:PORT expected"),
        ("nosuch.invalid:6379", "no answer"),
    ],
)
def test_an_address_of_the_wrong_kind_is_one_line_with_the_mend(address: str, says: str) -> None:
    with pytest.raises(DatagenError, match=says) as raised, connect(address):
        pass
    assert "\n" not in str(raised.value)


def test_an_address_that_nobody_answers_is_one_line() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(DatagenError, match="is the head node up"), connect(address):
        pass


def test_a_web_server_at_the_address_is_told_from_a_head_node() -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"127.0.0.1:{server.server_port}"
        with pytest.raises(DatagenError, match="not that of the dashboard"), connect(address):
            pass
    finally:
        server.shutdown()
        server.server_close()


def test_a_local_ray_says_nothing_and_is_gone_afterwards_even_without_a_home(python) -> None:  # type: ignore[no-untyped-def]
    done = python(LOCAL, HOME="/nonexistent")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_ray_that_the_caller_has_started_is_used_and_left_running(python) -> None:  # type: ignore[no-untyped-def]
    done = python(
        "import ray\n"
        "ray.init(address='local', num_cpus=2, include_dashboard=False, logging_level='ERROR')\n"
        "from datagen.cluster.connect import connect\n"
        "with connect() as cluster:\n"
        "    assert cluster.cpus == 2 and not cluster.local\n"
        "assert ray.is_initialized()\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux's")
def test_a_local_ray_starts_with_a_tiny_shared_memory() -> None:
    small = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "--mount", "sh", "-c", small], capture_output=True).returncode
    ):
        pytest.skip("a private /dev/shm cannot be mounted here")
    environment = {key: value for key, value in os.environ.items() if key[:4] != "RAY_"}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{small} && exec "$0" -c "$1"', sys.executable, LOCAL],
        capture_output=True,
        text=True,
        env=environment,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("warning: /dev/shm has 64 MiB free")


def test_a_cluster_gets_this_package_with_its_linked_folders(head) -> None:  # type: ignore[no-untyped-def]
    done = head.python(WORKER, head.address)
    assert done.returncode == 0, done.stderr
    local, cpus, folder, filters = done.stdout.strip().split("|")
    assert (local, cpus) == ("False", "2.0")
    assert "runtime_resources" in folder  # not this checkout
    assert "__init__.py" in filters
    assert done.stderr == ""


def test_a_cluster_that_asks_for_a_token_is_one_line(head) -> None:  # type: ignore[no-untyped-def]
    stranger = {k: v for k, v in head.environment.items() if not k.startswith("RAY_AUTH")}
    done = head.python(CONNECT, head.address, environment=stranger)
    assert "RAY_AUTH_MODE=token" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_cluster_of_another_version_is_one_line_that_names_both(head) -> None:  # type: ignore[no-untyped-def]
    done = head.python(
        """
import json, sys
import ray
from ray._private import ray_constants
real = ray.__version__
from ray._private import worker
ray.__version__ = "2.40.0"   # what this driver now claims to be
from datagen.cluster.connect import connect
from datagen.errors import DatagenError
try:
    with connect(sys.argv[1]):
        print("connected")
except DatagenError as error:
    print(error)
print(real)
""",
        head.address,
    )
    line, real = done.stdout.splitlines()
    assert f"the cluster runs Ray {real} on Python" in line
    assert "this machine Ray 2.40.0 on Python" in line
    assert done.stderr == ""
