"""A hub of datasets on this machine, as much of one as the clients ask for.

``commits`` are files by path, by commit; ``branches`` point to commits; one dataset, ``org/name``.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

NAME = "org/name"


class Hub:
    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.url = ""

    def commit(self, name: str) -> str | None:
        return self.branches.get(name, name if name in self.commits else None)

    def add(self, files: dict[str, bytes]) -> str:
        """A new commit, to which ``main`` then points."""
        found = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[found] = files
        self.branches["main"] = found
        return found

    def answer(self, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if found := re.fullmatch(rf"/api/datasets/{NAME}(?:/revision/([^/]+))?", path):
            commit = self.commit(found[1] or "main")
            if commit is None:
                return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
            files = [{"rfilename": name} for name in self.commits[commit]]
            told = {"id": NAME, "sha": commit, "private": False, "tags": [], "siblings": files}
            return 200, json.dumps(told).encode(), {}
        if found := re.fullmatch(rf"/api/datasets/{NAME}/(tree|paths-info)/([^/]+)(/.*)?", path):
            rows = self._listed(self.commits[self.commit(found[2]) or ""])
            if found[1] == "paths-info":
                wanted = parse_qs(body.decode())["paths"]
                rows = [row for row in rows if row["path"] in wanted]
            elif found[3]:
                rows = [row for row in rows if row["path"].startswith(found[3].strip("/") + "/")]
            return 200, json.dumps(rows).encode(), {}
        if found := re.fullmatch(rf"/datasets/{NAME}/resolve/([^/]+)/(.*)", path):
            commit = self.commit(found[1]) or ""
            data = self.commits.get(commit, {}).get(found[2])
            if data is None:
                return 404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            tag = f'"{hashlib.sha1(data).hexdigest()}"'
            return 200, data, {"ETag": tag, "X-Repo-Commit": commit}
        if path.startswith("/api/datasets/org/gated"):
            return 403, b"{}", {"X-Error-Code": "GatedRepo"}
        return 404, b"{}", {"X-Error-Code": "RepoNotFound"}

    @staticmethod
    def _listed(files: dict[str, bytes]) -> list[dict[str, Any]]:
        hashes = {name: hashlib.sha1(data).hexdigest() for name, data in files.items()}
        rows = [
            {"type": "file", "path": name, "size": len(files[name]), "oid": value}
            for name, value in hashes.items()
        ]
        folders = {name.rpartition("/")[0] for name in files} - {""}
        return rows + [
            {"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in folders
        ]


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers at its ``url`` (HF_ENDPOINT)."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, data, headers = hub.answer(self.path.partition("?")[0], body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_POST = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
