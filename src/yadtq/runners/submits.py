"""Publishes what running tasks submit, on threads of its own.

One invariant: every request is answered, with the ids or with the error, and whoever asks is never held up: Kafka may
take half a minute, and the threads that feed the runners must not wait for it.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from yadtq.attempt import Attempt
from yadtq.errors import NotInsideTask
from yadtq.task import Call

if TYPE_CHECKING:
    from concurrent.futures import Future

THREADS = 4

Publish = Callable[[Attempt, Sequence[Call]], list[str]]


def unable(_attempt: Attempt, _calls: Sequence[Call]) -> list[str]:
    """Where nobody said how to publish."""
    raise NotInsideTask("tasks cannot submit tasks here: nobody gave this runner a way to publish them")


class Submits:
    """A line of requests, and at most a few threads that are started as they are needed."""

    def __init__(self, publish: Publish | None) -> None:
        self._publish = publish or unable
        self._requests: queue.SimpleQueue[tuple[Attempt, Sequence[Call], Future[list[str]]] | None]
        self._requests = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._open = 0

    def put(self, attempt: Attempt, calls: Sequence[Call]) -> "Future[list[str]]":
        """Return a future of the ids."""
        from concurrent.futures import Future  # comes with `logging`; few tasks submit

        future: Future[list[str]] = Future()
        self._requests.put((attempt, calls, future))
        with self._lock:
            self._open += 1
            more = self._threads < min(self._open, THREADS)
            self._threads += more
        if more:
            threading.Thread(target=self._serve, name="yadtq-submits", daemon=True).start()
        return future

    def close(self) -> None:
        """Let the threads go when what they have is done."""
        with self._lock:
            threads, self._threads = self._threads, 0
        for _ in range(threads):
            self._requests.put(None)

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            attempt, calls, future = request
            if future.set_running_or_notify_cancel():  # else the coroutine that awaited it was cancelled
                try:
                    future.set_result(self._publish(attempt, calls))
                except Exception as error:  # it is raised where the task submits
                    future.set_exception(error)
            with self._lock:
                self._open -= 1
