"""Commands on their way to Redis, and the connection that is kept for them.

One invariant: a connection takes the next commands only after every reply to the last ones was read; else it is cut,
because what is left over would be taken for an answer to what comes next.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from yadtq.ledger.protocol import Meanwhile

REST_S = 0.5  # a connection that has not been used for so long may have been cut
Command = tuple[Any, ...]


class Line:
    """A connection that is kept from one command to the next; whoever finds it in use takes one of the pool.

    Measured for a script with one task, of this process's time: 36 us; with the pool and what else the client does
    around a command 60, in a pipeline 93.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._connection: Any = None
        self._used_mono = 0.0
        self._in_use = threading.Lock()

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return their replies."""
        return self.send(commands).replies()

    def send(self, commands: Sequence[Command]) -> "Trip":
        """Send commands; the connection is theirs until the replies are read."""
        if not self._in_use.acquire(blocking=False):
            pool = self._client.connection_pool
            connection = pool.get_connection()
            return Trip(connection, commands, lambda: pool.release(connection))
        try:
            connection = self._take()
        except BaseException:
            self._in_use.release()
            raise
        return Trip(connection, commands, self._in_use.release)

    def _take(self) -> Any:
        """Have a connection. The pool looks whether one that has rested was cut meanwhile."""
        now_mono, pool = time.monotonic(), self._client.connection_pool
        if self._connection is not None and now_mono - self._used_mono > REST_S:
            connection, self._connection = self._connection, None
            pool.release(connection)
        if self._connection is None:
            self._connection = pool.get_connection()
        self._used_mono = now_mono
        return self._connection


class Trip:
    """Commands that were sent, and have their replies to come."""

    def __init__(self, connection: Any, commands: Sequence[Command], release: Callable[[], None]) -> None:
        self._connection = connection
        self._count = len(commands)
        self._release = release
        try:
            connection.send_packed_command(connection.pack_commands(commands))
        except BaseException:
            self._cut()
            raise

    def replies(self, meanwhile: Meanwhile | None = None) -> list[Any]:
        """Wait for all of them. What one of them says went wrong is raised.

        Args:
            meanwhile: Called until it returns False or a reply is there. What it raises comes as `Disturbed`.
        """
        connection = self._connection
        try:
            while meanwhile is not None and _goes_on(meanwhile) and not connection.can_read():
                continue
            replies = [_reply(connection) for _ in range(self._count)]
        except BaseException:
            self._cut()
            raise
        self._release()
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    def _cut(self) -> None:
        self._connection.disconnect()
        self._release()


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:  # the replies behind it are still to be read
        return error


class Disturbed(Exception):
    """Carries what `meanwhile` raised past those who take errors for the server's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def _goes_on(meanwhile: Meanwhile) -> bool:
    try:
        return meanwhile()
    except Exception as error:
        raise Disturbed(error) from error
