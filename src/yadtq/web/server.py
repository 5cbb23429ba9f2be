"""Serve the web app on this machine's loopback.

One invariant: nobody else than this machine is served. There are no tokens yet, so another address is refused before
anything is started.
"""

import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from yadtq.errors import SettingsError

LOOPBACK = {"127.0.0.1": socket.AF_INET, "localhost": socket.AF_INET, "::1": socket.AF_INET6}
GRACE_S = 1


def check(host: str, port: int) -> None:
    """Raises SettingsError where the address is not this machine's loopback, or the port is none."""
    if host not in LOOPBACK:
        raise SettingsError(
            f"the web app listens on 127.0.0.1 only, not on {host!r}: it has no log-in yet, so everybody who can "
            "reach it could submit tasks. To see it from elsewhere, forward the port: ssh -L 8080:127.0.0.1:8080"
        )
    if not 0 <= port < 65_536:
        raise SettingsError(f"a port is 0 to 65535, not {port}")


def bind(host: str, port: int) -> socket.socket:
    """Take the port; 0 takes a free one.

    Raises:
        SettingsError: As `check`, or the port is taken.
    """
    check(host, port)
    listener = socket.socket(LOOPBACK[host], socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"port {port} on {host} cannot be used: {error.strerror}. Give another one with --port, or --port 0 for "
            "a free one"
        ) from error
    return listener


def address(listener: socket.socket) -> str:
    """The URL that a browser opens."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Server(uvicorn.Server):
    """A server that ends its event streams before it waits for its connections."""

    def __init__(self, site: FastAPI) -> None:
        config = uvicorn.Config(
            site,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        super().__init__(config)
        self._site = site

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._site.state.live.close()
        await super().shutdown(sockets)


def serve(site: FastAPI, listener: socket.socket) -> None:
    """Serve until Ctrl+C or SIGTERM."""
    with suppress(KeyboardInterrupt):  # the server ends in order first, and raises it again behind that
        Server(site).run(sockets=[listener])
