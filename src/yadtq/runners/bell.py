"""Wakes a thread that waits in a selector.

One invariant: a ring between two waits is never lost, and ringing never waits, also when nobody listens any more.
"""

import socket


class Bell:
    """A stream to oneself."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)

    def fileno(self) -> int:
        return self._far.fileno()

    def ring(self) -> None:
        try:
            self._near.send(b"!")
        except OSError:
            return  # it rings already, or it is closed

    def answer(self) -> None:
        """Silence it; what it was rung for is looked at after this."""
        self._far.recv(4096)

    def close(self) -> None:
        self._near.close()
        self._far.close()
