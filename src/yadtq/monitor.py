"""Watches the heartbeats and tells who turns ALIVE and who turns DEAD.

One invariant: it only shows. Claims are judged by each worker's own lease, inside the ledger, so a monitor with another
allowed delay, or no monitor at all, changes nothing about recovery.
"""

from collections.abc import Callable

from yadtq.errors import LedgerUnavailable
from yadtq.ledger import Ledger, WorkerRecord
from yadtq.service import Service
from yadtq.telemetry import Telemetry

LOOK_S = 0.5


class Monitor(Service):
    """Looks twice a second, keeps `status` in `all_heartbeats`, and tells every change.

    Args:
        allowed_s: A beat older than this means DEAD.
        on_change: Told of each worker at first sight and whenever its status changes.
        topic: Of whose workers it is told; None: of all. One whose beat names no topic is told in any case.
    """

    def __init__(
        self,
        ledger: Ledger,
        allowed_s: float,
        telemetry: Telemetry,
        on_change: Callable[[WorkerRecord], None],
        *,
        topic: str | None = None,
    ) -> None:
        super().__init__("yadtq-monitor")
        self._ledger = ledger
        self._allowed_ms = int(allowed_s * 1000)
        self._on_change = on_change
        self._topic = topic
        self._shown: dict[str, tuple[str, str]] = {}
        self._telemetry = telemetry

    def run(self) -> None:
        while not self.stopping.is_set():
            self.look()
            self.stopping.wait(LOOK_S)

    def look(self) -> None:
        """Look once."""
        try:
            workers = self._ledger.workers(self._allowed_ms, mark=True)
        except LedgerUnavailable as error:
            self._telemetry.failed("Redis", error)
            return
        self._telemetry.answered("Redis")
        for worker in workers:
            if self._topic is not None and worker.topic not in ("", self._topic):
                continue
            now = (worker.status, worker.incarnation)
            if self._shown.get(worker.name) != now:
                self._shown[worker.name] = now
                self._on_change(worker)
