"""Fetching bytes from a public web address, and from no other.

The name is resolved once, every address it gives must be public, and the connection goes to the
address that was judged: a name that resolves differently a moment later gains nothing. Each
redirect is judged anew. Proxy settings of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit

from datagen.containers import MediaError

REDIRECTS = 5
_MOVED = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

#: Judges one IP address, written out.
Permitted = Callable[[str], bool]


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet, also when wrapped in an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def fetch(
    url: str, offset: int, size: int, seconds: float, permitted: Permitted = is_public
) -> bytes:
    """At most ``size`` bytes of ``url`` from ``offset``, within ``seconds`` in all.

    Raises MediaError: ``http_not_allowed`` (an address that ``permitted`` refuses),
    ``missing_file`` (404 or 410), ``unreadable_file`` (anything else).
    """
    deadline = time.monotonic() + seconds
    place = url
    try:
        for _ in range(REDIRECTS + 1):
            parts = urlsplit(place)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise MediaError("http_not_allowed", f"{url}: leads to {place}")
            connection = _connect(parts, deadline, permitted)
            try:
                answer = _ask(connection, parts, offset, size)
                if answer.status in _MOVED:
                    place = urljoin(place, answer.headers.get("Location") or "")
                    continue
                return _body(answer, url, offset, size, deadline, connection)
            finally:
                connection.close()
    except MediaError:
        raise
    except Exception as error:
        raise MediaError("unreadable_file", f"{url}: {type(error).__name__}: {error}") from error
    raise MediaError("unreadable_file", f"{url}: more than {REDIRECTS} redirects")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("took too long")
    return left


def _connect(
    parts: SplitResult, deadline: float, permitted: Permitted
) -> http.client.HTTPConnection:
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    refused = [address for address in addresses if not permitted(address)]
    if refused or not addresses:
        raise MediaError("http_not_allowed", f"{host} is not a public address ({refused})")
    plain = socket.create_connection((addresses[0], port), timeout=_left(deadline))
    try:
        if secure:
            context = ssl.create_default_context()
            plain = context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise
    connection = http.client.HTTPConnection(host, port, timeout=_left(deadline))
    connection.sock = plain
    return connection


def _ask(
    connection: http.client.HTTPConnection, parts: SplitResult, offset: int, size: int
) -> http.client.HTTPResponse:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    default = 443 if parts.scheme == "https" else 80
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else (parts.hostname or "")
    headers = {
        "Host": host if parts.port in (None, default) else f"{host}:{parts.port}",
        "User-Agent": "datagen",
        "Accept-Encoding": "identity",
    }
    if offset:
        headers["Range"] = f"bytes={offset}-{offset + size - 1}"
    connection.request("GET", target, headers=headers)
    return connection.getresponse()


def _body(
    answer: http.client.HTTPResponse,
    url: str,
    offset: int,
    size: int,
    deadline: float,
    connection: http.client.HTTPConnection,
) -> bytes:
    if answer.status in (404, 410):
        raise MediaError("missing_file", f"{url}: the server says {answer.status}")
    if answer.status not in (200, 206):
        raise MediaError("unreadable_file", f"{url}: the server says {answer.status}")
    # A server may ignore the range and send everything.
    skip = offset if answer.status == 200 else 0
    data = bytearray()
    while len(data) < skip + size:
        if connection.sock is not None:
            connection.sock.settimeout(_left(deadline))
        _left(deadline)
        chunk = answer.read1(min(skip + size - len(data), 1 << 16))
        if not chunk:
            break
        data += chunk
    declared = answer.headers.get("Content-Length")
    if declared and declared.isdigit() and len(data) < min(int(declared), skip + size):
        raise MediaError("truncated", f"{url}: {len(data)} of {declared} bytes")
    return bytes(data[skip:])
