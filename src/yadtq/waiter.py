"""Waits for the ends of tasks, for everybody in this process who wants to know.

One invariant: a future is finished only by a final record, or by NotFound where there is none; a Redis that does not
answer leaves it waiting.

The ledger announces what becomes final, so a record is asked for once when somebody begins to wait and once at its end.
Announcements can be lost with a connection: what waits is asked for again when it is back, and slowly all the time.
"""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import islice

from yadtq.errors import LedgerUnavailable, NotFound
from yadtq.handle import Settled
from yadtq.ledger import Ledger, TaskRecord

log = logging.getLogger("yadtq")

ROUND_S = 0.5  # between two looks at what waits, announced or not
MOST = 1_000  # records in one question
IN_TURN = 200  # asked for in a round while ends are announced: a connection that breaks is known, so few can be missed
AGAIN_S = 1.0  # after a question without an answer


class Waiter:
    """One thread that asks the ledger for everybody who waits, many tasks a round trip."""

    def __init__(self, ledger: Ledger, unrecorded: set[str]) -> None:
        self._ledger = ledger
        self._unrecorded = unrecorded
        self._waiting: dict[str, list[Future[Settled]]] = {}  # what was asked for longest ago comes first
        self._due: dict[str, None] = {}  # to be asked for now, in order
        self._deaf = True  # nothing is announced at the moment
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="yadtq-waiter", daemon=True)
        self._thread.start()
        self._listening = ledger.listen(self._announced, self._heard)

    def wait_for(self, task_id: str) -> "Future[Settled]":
        future: Future[Settled] = Future()
        with self._lock:
            self._waiting.setdefault(task_id, []).append(future)
            self._due[task_id] = None
        self._wake.set()
        return future

    def close(self) -> None:
        self._listening.close()
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _announced(self, task_ids: Sequence[str]) -> None:
        """Told on the ledger's thread."""
        with self._lock:
            ours = [task_id for task_id in task_ids if task_id in self._waiting]
            self._due.update(dict.fromkeys(ours))
        if ours:
            self._wake.set()

    def _heard(self, yes: bool) -> None:
        """Told on the ledger's thread: from now on ends are announced, or no more. What lies between was not."""
        with self._lock:
            self._deaf = not yes
            self._due.update(dict.fromkeys(self._waiting))
        self._wake.set()

    def _run(self) -> None:
        round_mono = time.monotonic() + ROUND_S
        while not self._closing.is_set():
            self._wake.wait(max(round_mono - time.monotonic(), 0) if self._waiting else None)
            self._wake.clear()
            due = self._take_due()
            if time.monotonic() >= round_mono:
                due.update(dict.fromkeys(self._round()))
                round_mono = time.monotonic() + ROUND_S
            try:
                self._look(due)
            except LedgerUnavailable as error:
                log.warning("still waiting for results: %s", error)
                with self._lock:
                    self._due.update(due)
                self._wake.set()
                self._closing.wait(AGAIN_S)

    def _take_due(self) -> dict[str, None]:
        with self._lock:
            due, self._due = self._due, {}
        return due

    def _round(self) -> list[str]:
        """Whom to ask for though nothing was announced: where it would have been, a few in turn; else all."""
        with self._lock:
            for task_id in [at for at, futures in self._waiting.items() if all(it.cancelled() for it in futures)]:
                del self._waiting[task_id]
            asked = list(self._waiting if self._deaf else islice(self._waiting, IN_TURN))
            for task_id in asked:
                self._waiting[task_id] = self._waiting.pop(task_id)
        return asked

    def _look(self, due: dict[str, None]) -> None:
        """Ask, and forget of `due` what was answered."""
        while due:
            asked = list(islice(due, MOST))
            for task_id, record in zip(asked, self._ledger.records(asked), strict=True):
                self._answered(task_id, record)
                del due[task_id]

    def _answered(self, task_id: str, record: TaskRecord | None) -> None:
        if record is None and task_id not in self._unrecorded:
            self._finish(task_id, NotFound(task_id))
        elif record is not None and record.final:
            self._unrecorded.discard(task_id)
            self._finish(task_id, Settled(record.status, record.attempts, record.result, record.error_log))

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
