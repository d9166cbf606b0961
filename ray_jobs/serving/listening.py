"""The socket that a server is to have: taken before a model is loaded, which is too long to wait for "address already in use"."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import uvicorn

from setok.config import ServeSection
from setok.errors import ConfigError

FREE_PORT = 8001
"""What is proposed instead of a port that is taken."""


def bound(server: ServeSection) -> socket.socket:
    """A socket at the server's host and port, which nobody can connect to before it listens.

    Raises:
        ConfigError: the port is taken or reserved, or this machine has no such host.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        other = FREE_PORT + (server.port == FREE_PORT)
        raise ConfigError(
            f"the server cannot listen at {server.host}, port {server.port}: {error.strerror}",
            (f"end what listens there, or --set server.port={other}")
            if taken
            else "check server.host, which must be an address of this machine, and server.port, which should be above 1023",
        ) from error
    return bound


def check_free(server: ServeSection) -> None:
    """Refuse a port that is taken, where something else than this process is to listen there.

    Raises:
        ConfigError: as ``bound``.
    """
    bound(server).close()


class Announced(uvicorn.Server):
    """Says so as soon as it answers.

    Args:
        announce: called once, in the server's thread.
    """

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self._announce()
