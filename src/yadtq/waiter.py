"""Waits for the ends of tasks, for everybody in this process who wants to know.

One invariant: a future is finished only by a final record, or by NotFound where there is none; a Redis that does not
answer leaves it waiting.
"""

import logging
import threading
from concurrent.futures import Future

from yadtq.errors import LedgerUnavailable, NotFound
from yadtq.handle import Settled
from yadtq.ledger import Ledger

log = logging.getLogger("yadtq")


class Waiter:
    """One thread that asks the ledger for everybody who waits, many tasks a round trip."""

    FASTEST_S = 0.002
    SLOWEST_S = 0.1

    def __init__(self, ledger: Ledger, unrecorded: set[str]) -> None:
        self._ledger = ledger
        self._unrecorded = unrecorded
        self._waiting: dict[str, list[Future[Settled]]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="yadtq-waiter", daemon=True)
        self._thread.start()

    def wait_for(self, task_id: str) -> "Future[Settled]":
        future: Future[Settled] = Future()
        with self._lock:
            self._waiting.setdefault(task_id, []).append(future)
        self._wake.set()
        return future

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = self.FASTEST_S
        while not self._closed:
            if self._wake.wait(pause_s if self._waiting else None):
                self._wake.clear()
                pause_s = self.FASTEST_S
            try:
                self._look()
            except LedgerUnavailable as error:
                log.warning("still waiting for results: %s", error)
                pause_s = 1.0
            pause_s = min(pause_s * 1.5, max(self.SLOWEST_S, pause_s))

    def _look(self) -> None:
        with self._lock:
            self._waiting = {
                task_id: [future for future in futures if not future.cancelled()]
                for task_id, futures in self._waiting.items()
                if not all(future.cancelled() for future in futures)
            }
            asked = list(self._waiting)
        for task_id, record in zip(asked, self._ledger.records(asked), strict=True):
            if record is None and task_id not in self._unrecorded:
                self._finish(task_id, NotFound(task_id))
            elif record is not None and record.final:
                self._unrecorded.discard(task_id)
                end = Settled(record.status, record.attempts, record.result, record.error_log)
                self._finish(task_id, end)

    def _finish(self, task_id: str, end: Settled | Exception) -> None:
        with self._lock:
            futures = self._waiting.pop(task_id, [])
        for future in futures:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(end, Exception):
                future.set_exception(end)
            else:
                future.set_result(end)
