"""How a cluster is reached: whether anybody listens at its address, and what it refuses, told in our words."""

from __future__ import annotations

import contextlib
import re
import socket
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

from setok.errors import ConfigError

KNOCK_SECONDS = 5.0
_SENTENCE = re.compile(r"\n|\.+\s")
_TOKEN_REMEDY = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's token or RAY_AUTH_TOKEN_PATH to a file that holds it"
)


@contextlib.contextmanager
def explained(where: str, remedy: str) -> Iterator[None]:
    """Tell what a cluster refuses, and that it is not there, in one line.

    Args:
        where: the cluster as the user named it.
        remedy: what to do where nobody answers; for a token that is refused it is another.

    Raises:
        ConfigError: in place of Ray's and the HTTP client's errors.
    """
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(f"the cluster at {where}: {_first_sentence(error.message)}", _TOKEN_REMEDY) from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        refused = any(word in str(error) for word in ("401", "403", "nauthorized", "oken"))
        told = _first_sentence(str(error)) or type(error).__name__
        raise ConfigError(f"the cluster at {where}: {told}", _TOKEN_REMEDY if refused else remedy) from error


def _first_sentence(text: str) -> str:
    """Without the advice that follows it."""
    return _SENTENCE.split(text.strip(), maxsplit=1)[0].strip().rstrip(".")


def knock(address: str, remedy: str, *, seconds: float = KNOCK_SECONDS) -> None:
    """See within seconds whether anybody listens at an address; Ray itself would try for a minute and more.

    Args:
        address: ``host:port``, or with a scheme in front; one without a port, such as ``auto``, names nobody to ask.

    Raises:
        ConfigError: nobody listens there.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise ConfigError(f"{address} is no address of a cluster: {error}", remedy) from error
    if host is None or port is None or _goes_by_proxy(parts.scheme, host):
        return
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        why = f"no answer in {seconds:g} s" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise ConfigError(f"nobody listens at {host}:{port}: {why}", remedy) from error


def _goes_by_proxy(scheme: str, host: str) -> bool:
    """Whether the HTTP client asks a proxy, which may reach what this machine does not."""
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)
