"""The way to the ledger and back: what goes together, and comes back together where no answer came.

One invariant: what is in a flight is in no list of the engine or the settler, and the other way round.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from yadtq.catalogue import Known
from yadtq.claim import Work
from yadtq.errors import LedgerUnavailable
from yadtq.heartbeat import Identity
from yadtq.layout import QueueTopics
from yadtq.ledger import Answers, Batch, Ledger, Question, Release
from yadtq.register import Registrar
from yadtq.service import Clock
from yadtq.settle import accept_of, seal_of
from yadtq.telemetry import Telemetry
from yadtq.writes import Writes

WAIT_S = 0.1  # before a ledger that waits to be read in is asked again
AGAIN_S = 0.25  # before one that did not answer is
LOOK_S = 1.0  # who has nothing to ask asks as often: who only runs things hears of a barrier (R3)


@dataclass(slots=True)
class Flight:
    """One batch."""

    accepting: list[Work]
    sealing: list[Writes]
    releasing: list[Release]
    asking: list[Work]
    incarnation: str  # in whose name it asks

    def batch(self, known: Known) -> Batch:
        """What the ledger is told of them."""
        return Batch(
            accepts=[accept_of(work) for work in self.accepting],
            seals=[seal_of(writes) for writes in self.sealing],
            releases=self.releasing,
            claims=[work.claim(known) for work in self.asking],
        )


class Courier:
    """Brings one batch at a time to the ledger, and its answers back.

    Args:
        registrar: Told whether the ledger is open.
    """

    def __init__(
        self,
        ledger: Ledger,
        topics: QueueTopics,
        identity: Identity,
        known: Known,
        telemetry: Telemetry,
        clock: Clock,
        registrar: Registrar,
    ) -> None:
        self.away = False  # for as long as that takes; a loop that waits there does not stand still
        self.again_mono = 0.0  # not before
        self._brings = False  # the batch that is on its way: what a full ledger would refuse
        self._ledger = ledger
        self._topics = topics
        self._identity = identity
        self._known = known
        self._telemetry = telemetry
        self._clock = clock
        self._registrar = registrar
        self._look_mono = 0.0

    def send(self, flight: Flight) -> Question | None:
        """Send a flight; None where the ledger is not there, or there is nothing to say."""
        batch = flight.batch(self._known)
        if not batch and self._clock.mono_s() < self._look_mono:
            return None
        self._brings = batch.brings
        try:
            with self._on_the_way():
                return self._ledger.ask(self._topics.tasks, self._identity.name, flight.incarnation, batch)
        except LedgerUnavailable as error:
            self._failed(error)
            return None

    def fetch(self, question: Question, meanwhile: Callable[[], bool]) -> Answers | None:
        """Wait for the answers, and go on meanwhile; None where none came."""

        def here() -> bool:
            self.away = False
            goes_on = meanwhile()
            self.away = True
            return goes_on

        try:
            with self._on_the_way():
                answers = question.answers(here)
        except LedgerUnavailable as error:
            self._failed(error)
            return None
        self._telemetry.answered("Redis", took=self._brings)
        if answers.waiting:  # R2: nothing was done, and nothing can be until the ledger is read in
            self.again_mono = self._clock.mono_s() + WAIT_S
        else:
            self._look_mono = self._clock.mono_s() + LOOK_S
            self._registrar.opened()
        return answers

    def register(self, works: Iterable[Work]) -> None:
        """The ledger waits. works: what is claimed and not accepted (R3)."""
        with self._on_the_way():
            self._registrar.wait(works)

    def _failed(self, error: LedgerUnavailable) -> None:
        self._telemetry.failed("Redis", error)
        self.again_mono = self._clock.mono_s() + AGAIN_S

    @contextmanager
    def _on_the_way(self) -> Iterator[None]:
        self.away = True
        try:
            yield
        finally:
            self.away = False
