"""The thread that keeps this worker ALIVE, and the identity that it keeps.

One invariant: a beat is sent only if the intake and the engine both moved since the last one, so a wedged worker turns
DEAD although its heart could go on. A worker that learns that it was DEAD starts a new incarnation before it claims
again; one whose name was taken over by a newer process leaves.
"""

import os
import socket
import threading
import uuid
from collections.abc import Callable, Sequence

from yadtq.errors import LedgerUnavailable, Superseded
from yadtq.ledger import Beat, Ledger, Pulse
from yadtq.service import Clock, Service
from yadtq.settings import WorkerSettings
from yadtq.telemetry import Event, Telemetry

AGAIN_S = 0.5


class Identity:
    """Who this worker is at the moment."""

    def __init__(self, name: str, lease_s: float, clock: Clock) -> None:
        self.name = name
        self.incarnation = uuid.uuid4().hex[:12]
        self.beat_mono: float | None = None  # when the last good beat was sent
        self._lease_s = lease_s
        self._clock = clock

    @property
    def alive(self) -> bool:
        """Whether the lease certainly holds: judged from the sending of the last good beat, by a clock that counts
        suspended time (C6)."""
        return self.beat_mono is not None and self._clock.mono_s() - self.beat_mono <= self._lease_s

    def reborn(self) -> str:
        """Start a new incarnation; return the old one."""
        old, self.incarnation, self.beat_mono = self.incarnation, uuid.uuid4().hex[:12], None
        return old


class Heartbeat(Service):
    """Beats every `beat_s`, and at once when nudged."""

    def __init__(
        self,
        ledger: Ledger,
        identity: Identity,
        settings: WorkerSettings,
        topic: str,
        telemetry: Telemetry,
        clock: Clock,
        *,
        partitions: Callable[[], Sequence[int]],
        moving: Sequence[Service],
        on_reborn: Callable[[], None],
    ) -> None:
        super().__init__("yadtq-heartbeat")
        self._ledger = ledger
        self._identity = identity
        self._settings = settings
        self._topic = topic
        self._telemetry = telemetry
        self._clock = clock
        self._partitions = partitions
        self._moving = moving
        self._on_reborn = on_reborn
        self._seen = [-1] * len(moving)
        self._first = True
        self._replaces = ""
        self._nudge = threading.Event()

    def nudge(self) -> None:
        """Beat now: something that the beat tells has changed, or the lease is in doubt."""
        self._nudge.set()

    def stop(self) -> None:
        super().stop()
        self._nudge.set()

    def run(self) -> None:
        while not self.stopping.is_set():
            wait_s = self.turn()
            self._nudge.wait(wait_s)
            self._nudge.clear()

    def turn(self) -> float:
        """Beat if everything moves; return how long to wait for the next."""
        self.turns += 1
        seen = [service.turns for service in self._moving]
        if not self._first and any(now == before for now, before in zip(seen, self._seen, strict=True)):
            return AGAIN_S
        sent_mono = self._clock.mono_s()
        try:
            if self._first:
                self._ledger.workers(mark=True)  # drops those that were DEAD for long, so that the hash stays small
            pulse = self._ledger.beat(self._beat())
        except LedgerUnavailable as error:
            self._telemetry.failed("Redis", error)
            return AGAIN_S
        self._telemetry.answered("Redis")
        return self._felt(pulse, seen, sent_mono)

    def _felt(self, pulse: Pulse, seen: list[int], sent_mono: float) -> float:
        if pulse is Pulse.SUPERSEDED:
            raise Superseded(self._identity.name)
        self._first = False
        if pulse is Pulse.DEAD:
            self._replaces = self._identity.reborn()
            self._telemetry.tell(Event("reborn", detail=f"a beat came later than {self._settings.lease_s:g} s"))
            self._on_reborn()
            return 0.0
        self._identity.beat_mono = sent_mono
        self._seen, self._replaces = seen, ""
        return self._settings.beat_s

    def _beat(self) -> Beat:
        return Beat(
            name=self._identity.name,
            incarnation=self._identity.incarnation,
            lease_ms=int(self._settings.lease_s * 1000),
            topic=self._topic,
            partitions=self._partitions(),
            host=socket.gethostname(),
            pid=os.getpid(),
            order=self._settings.order,
            first=self._first,
            replaces=self._replaces,
        )
