"""Pictures from other hosts, where an allow-list says so: no private addresses, no redirects, no more bytes than are taken.

The address is resolved once, looked at, and then connected to, so that a name cannot mean another machine the second time.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from setok.errors import DataError

TIMEOUT_S = 10.0
_CHUNK = 64 * 1024
Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host.

    Raises:
        DataError: there is none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"the host {host!r} is not known", "check the URL, or send the picture as a data URL"
        ) from error
    return [str(address[4][0]) for address in found]


def fetch(url: str, hosts: Sequence[str], *, max_bytes: int, resolve: Resolve = resolve) -> bytes:
    """The bytes at a URL of one of these hosts.

    Args:
        hosts: names that are allowed, each for itself and not for what lies below it.
        resolve: host and port to addresses.

    Raises:
        DataError: another host or scheme, a private address, a redirect, too many bytes, or it does not answer.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise DataError(f"the URL has an impossible port: {error}", "correct the URL") from error
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in ("http", "https") or host not in hosts:
        allowed = ", ".join(hosts)
        raise DataError(
            f"pictures are not fetched from {parts.scheme}://{host}",
            "send the picture as a data URL" + (f", or have it at: {allowed}" if allowed else ""),
        )
    addresses = resolve(host, port)
    for address in addresses:
        if not ipaddress.ip_address(address.partition("%")[0]).is_global:
            raise DataError(f"the host {host!r} has a private address", "send the picture as a data URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _get(parts.scheme, host, port, addresses[0], target, max_bytes)


def _get(scheme: str, host: str, port: int, address: str, target: str, max_bytes: int) -> bytes:
    name = f"{scheme}://{host}"
    try:
        with socket.create_connection((address, port), timeout=TIMEOUT_S) as plain:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
            connection.sock = (
                ssl.create_default_context().wrap_socket(plain, server_hostname=host) if scheme == "https" else plain
            )
            connection.request("GET", target, headers={"Accept": "image/*", "Connection": "close"})
            answer = connection.getresponse()
            if answer.status != 200:
                what = "a redirect, which is not followed" if 300 <= answer.status < 400 else f"status {answer.status}"
                raise DataError(f"{name} answered with {what}", "give the picture's own URL, or send it as a data URL")
            data = b""
            while chunk := answer.read(_CHUNK):
                data += chunk
                if len(data) > max_bytes:
                    raise DataError(f"image too large: {name} sends more than {max_bytes} bytes", "send a smaller file")
            return data
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"{name} does not answer: {type(error).__name__}", "send the picture as a data URL") from error
