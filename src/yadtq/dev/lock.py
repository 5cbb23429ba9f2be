"""One at a time, across processes.

One invariant: the lock ends with the process that holds it, so none is ever left behind.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yadtq.dev.process import Interrupt, wait_until
from yadtq.errors import ServiceError

WAIT_S = 300.0  # a first start that fetches over a slow line holds the lock this long


@contextmanager
def exclusive(path: Path, interrupt: Interrupt) -> Iterator[None]:
    """Hold the lock, after waiting for whoever holds it.

    Raises:
        ServiceError: The other one does not end.
        KeyboardInterrupt: A signal came in while waiting.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not wait_until(lambda: _try(descriptor), WAIT_S, interrupt):
            raise ServiceError(f"another `yadtq` has held {path} for {WAIT_S:g} s; wait for it or end it")
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
