"""Which port a service listens on.

One invariant: a port chosen here was free a moment ago. It may be taken before the service has it, so whoever starts
the service looks again when it fails.
"""

import errno
import random
import socket
from collections.abc import Iterable, Iterator

from yadtq.errors import ServiceError

HOST = "127.0.0.1"

# Below the ports that Linux and macOS hand out to outgoing connections: while a service is down for a moment, nobody
# is given its port, and a client that tries it again and again cannot end up connected to itself.
RANGE = range(20_000, 32_000)
TRIES = 200


def choose(wished: Iterable[int], *, taken: Iterable[int] = ()) -> int:
    """Return the first wished port that is free, else any that is.

    Raises:
        ServiceError: None is free.
    """
    refused = set(taken)
    for port in _candidates(wished):
        if port not in refused and is_free(port):
            return port
    raise ServiceError(f"no free port on {HOST}; end some programs and run this again")


def is_free(port: int) -> bool:
    """Whether a service could listen on the port."""
    with socket.socket() as probe:
        # A server of another kind may hold the port on all addresses, which on macOS does not stop a bind to one.
        probe.settimeout(1.0)
        if probe.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _candidates(wished: Iterable[int]) -> Iterator[int]:
    yield from wished
    for _ in range(TRIES):
        yield random.choice(RANGE)
