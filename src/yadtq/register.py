"""What a worker tells a ledger that waits to be read in: which attempts it still runs.

One invariant: it registers only what its present incarnation has claimed and what is not accepted. So nobody else was
given it as far as this worker can know, and it is not over: what was accepted is on its way to Kafka, and the barrier
gives it the time to arrive before the markers (R3).
"""

from collections.abc import Callable, Iterable

from yadtq.claim import Work
from yadtq.errors import LedgerUnavailable
from yadtq.heartbeat import Identity
from yadtq.layout import QueueTopics
from yadtq.ledger import Errand, Ledger
from yadtq.telemetry import Event, Telemetry


class Registrar:
    """One worker's part in the barrier of a queue.

    Args:
        recover: Called when the outcomes have to be read in, with what has to be done. It is quick.
    """

    def __init__(
        self,
        ledger: Ledger,
        topics: QueueTopics,
        identity: Identity,
        telemetry: Telemetry,
        recover: Callable[[Errand], None],
    ) -> None:
        self.recover = recover
        self._ledger = ledger
        self._topics = topics
        self._identity = identity
        self._telemetry = telemetry
        self._told = False

    def opened(self) -> None:
        """The ledger answered."""
        self._told = False

    def wait(self, works: Iterable[Work]) -> None:
        """The ledger waits. works: what is claimed and not accepted."""
        if not self._told:
            self._told = True
            self._telemetry.tell(Event("waiting_for_ledger"))
        identity = self._identity
        incarnation = identity.incarnation
        if identity.alive:  # without a beat it may have been DEAD, and its attempts somebody else's
            held = [work.holding() for work in works if work.incarnation == incarnation]
            try:
                self._ledger.register(self._topics.tasks, identity.name, incarnation, held)
            except LedgerUnavailable as error:
                self._telemetry.failed("Redis", error)
        self.recover(Errand.REBUILD)
