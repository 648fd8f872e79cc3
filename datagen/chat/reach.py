"""Whether servers can be reached and know the model, asked once before the first row."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from datagen.chat._places import proxy_of
from datagen.chat.ask import one_line
from datagen.chat.server import Servers
from datagen.errors import DatagenError, nearest

#: Seconds that a server may take, and bytes of its list of models that are read.
PATIENCE = 10.0
MOST = 4 << 20


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key goes to the address that was named, and nowhere else."""

    def redirect_request(self, *args: Any) -> None:
        return None


def faults(servers: Servers) -> Iterator[str]:
    """What keeps ``servers`` from answering, one line each; none where one of them can.

    A server that lists no models (some do not) is taken for good.
    """
    try:
        servers.open()
        told = [_fault(servers, url.rstrip("/")) for url in servers.urls]
    except DatagenError as error:
        yield str(error)
        return
    finally:
        servers.close()
    if all(told):
        yield from told


def _fault(servers: Servers, url: str) -> str:
    """Why the server at ``url`` cannot be asked; empty where it can."""
    headers = servers.headers(url)
    request = urllib.request.Request(f"{url}/models", headers=headers)
    # By the way that questions go: none on this machine leaves it.
    proxy = proxy_of(url)
    by = urllib.request.ProxyHandler({url.partition(":")[0]: proxy} if proxy else {})
    opener = urllib.request.build_opener(_NoRedirect, by)
    try:
        with opener.open(request, timeout=min(PATIENCE, servers.timeout)) as answer:
            listed = _listed(answer.read(MOST))
    except urllib.error.HTTPError as error:
        code = error.code
        if code in (401, 403):
            state = "is refused" if headers else "is not set, or not sent over plain http"
            return f"server {url}: wants a key, and {servers.key_env} {state} (HTTP {code})"
        # A server without this page may well answer questions.
        return "" if code < 500 else f"server {url}: answers HTTP {code}; is it starting?"
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = one_line(servers.plain(str(getattr(error, "reason", error))), 120)
        return f"server {url}: cannot be reached ({why}); start it, or name another url"
    if listed and servers.model not in listed:
        return f"server {url}: serves no model '{servers.model}'; {nearest(servers.model, listed)}"
    return ""


def _listed(data: bytes) -> list[str]:
    """Names of models in the answer; none where it is no list."""
    try:
        found = json.loads(data)["data"]
        return [one_line(model["id"], 200) for model in found]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
