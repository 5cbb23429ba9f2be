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

from yadtq.attempt import Lease
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
        self.lease = Lease(_incarnation())  # over until the first good beat
        self._lease_s = lease_s
        self._clock = clock

    @property
    def incarnation(self) -> str:
        return self.lease.incarnation

    @property
    def alive(self) -> bool:
        """Whether the lease certainly holds (C6)."""
        lease = self.lease
        return lease.allows(lease.incarnation, self._clock.mono_s())

    def renewed(self, sent_mono: float) -> Lease:
        """The lease after a good beat: it counts from the sending, since nobody knows when Redis took the beat."""
        return Lease(self.incarnation, sent_mono + self._lease_s)

    def reborn(self) -> Lease:
        """A new incarnation, before its first beat."""
        return Lease(_incarnation())


def _incarnation() -> str:
    return uuid.uuid4().hex[:12]


class Heartbeat(Service):
    """Beats every `beat_s`, and at once when nudged.

    Args:
        on_lease: Told every change of the lease, before the identity shows it: what is claimed under it can start.
    """

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
        on_lease: Callable[[Lease], None],
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
        self._on_lease = on_lease
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
        identity = self._identity
        if pulse is Pulse.SUPERSEDED:
            self._lease(Lease(identity.incarnation))  # its claims are over already
            raise Superseded(identity.name)
        self._first = False
        if pulse is Pulse.DEAD:
            self._replaces = identity.incarnation
            self._lease(identity.reborn())
            self._telemetry.tell(Event("reborn", detail=f"a beat came later than {self._settings.lease_s:g} s"))
            self._on_reborn()
            return 0.0
        self._lease(identity.renewed(sent_mono))
        self._seen, self._replaces = seen, ""
        return self._settings.beat_s

    def _lease(self, lease: Lease) -> None:
        self._on_lease(lease)
        self._identity.lease = lease

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
