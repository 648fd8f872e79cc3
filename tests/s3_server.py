"""A real S3 server for tests: moto in a process of its own, which Ray's workers reach too."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import boto3
import s3fs

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
BUCKET = "bucket"


def free_port():
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return line.getsockname()[1]


class Server:
    """The address and the environment that lead to a server, and what it was asked."""

    def __init__(self, port, log):
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        self.client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name=KEYS["AWS_DEFAULT_REGION"],
        )
        self.log = Path(log)

    def put(self, key, data):
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def get(self, key):
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def keys(self, prefix):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def asked(self, since=0):
        """How often each (kind, key) was asked since a place in the log; LIST is a kind."""
        found = Counter()
        for line in self.log.read_bytes()[since:].decode(errors="replace").splitlines():
            request = re.search(r'"(?:\x1b\[[0-9;]*m)*([A-Z]+) /([^ ?]*)(\S*)', line)
            if request:
                kind = "LIST" if "list-type" in request[3] else request[1]
                found[kind, request[2]] += 1
        return found

    def mark(self):
        """The place in the log where the next request will stand."""
        return self.log.stat().st_size


@contextlib.contextmanager
def serving(folder):
    """Start a server with one empty bucket; ``folder`` takes its log."""
    port, log = free_port(), Path(folder) / "requests.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            give_up = time.monotonic() + 60
            while time.monotonic() < give_up:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            server = Server(port, log)
            server.client.create_bucket(Bucket=BUCKET)
            # A process that knows a server of this kind already goes on asking that one.
            s3fs.S3FileSystem.clear_instance_cache()
            yield server
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            process.kill()
            process.wait()
