"""Parts of a worker that obey the test: a runner that starts and ends what it is told to, a producer that is watched.

One invariant: nothing happens here by itself.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from yadtq.attempt import Attempt, Ending, Lease, Outcome, Place, Recalled, Started
from yadtq.broker import Message, OnReport, OnReports, Report
from yadtq.broker.memory import MemoryBroker
from yadtq.runners import Sink
from yadtq.service import Clock

T = TypeVar("T")


class Leased:
    """A played runner starts what the lease allows, and nothing else (C6)."""

    clock: Clock

    def __init__(self) -> None:
        self._lease = Lease()

    def renew(self, lease: Lease) -> None:
        self._lease = lease

    def allows(self, attempt: Attempt) -> bool:
        return self._lease.allows(attempt.incarnation, self.clock.mono_s())


class ObedientRunner(Leased):
    """Starts and ends attempts when the test says so; of suspects as many at a time as of those that share."""

    def __init__(self, sink: Sink, slots: int, solo_slots: int) -> None:
        super().__init__()
        self.on_start: Callable[[Attempt], None] = lambda _: None
        self.isolates = solo_slots > 0
        self.waiting: dict[int, Attempt] = {}  # given, not started
        self.running: dict[int, Attempt] = {}
        self.history: list[tuple[str, int]] = []  # (task id, attempt) of every start
        self._sink = sink
        self._slots: dict[Place, int] = {"shared": slots, "solo": solo_slots, "suspect": slots}

    def room(self, place: Place = "shared") -> int:
        if not self.isolates:
            return self._slots["shared"] - len(self.in_hand) if place == "shared" else 0
        return self._slots[place] - sum(attempt.place == place for attempt in self.in_hand)

    @property
    def in_hand(self) -> list[Attempt]:
        return [*self.waiting.values(), *self.running.values()]

    def start(self, attempts: list[Attempt]) -> None:
        self.waiting |= {attempt.number: attempt for attempt in attempts}

    def recall(self, numbers: list[int]) -> None:
        for number in numbers:
            if self.waiting.pop(number, None) is not None:
                self._sink([Recalled(number)])

    def close(self, timeout_s: float) -> bool:
        return not self.running

    def kill(self) -> None:
        self.running.clear()

    def begin(self, place: Place | None = None) -> None:
        """Start everything that waits and may start, here or at one place."""
        for number, attempt in list(self.waiting.items()):
            if place not in (None, attempt.place):
                continue
            del self.waiting[number]
            if not self.allows(attempt):
                self._sink([Recalled(number)])
                continue
            self.on_start(attempt)
            self.running[number] = attempt
            self.history.append((attempt.task_id, attempt.attempt))
            self._sink([Started(number)])

    def end(self, ending: Ending = Ending.RETURNED, result: bytes = b"1", error_log: str = "boom") -> None:
        """End everything that runs, in one way."""
        for number in list(self.running):
            self.end_one(number, ending, result, error_log)

    def end_one(
        self,
        number: int,
        ending: Ending = Ending.RETURNED,
        result: bytes = b"1",
        error_log: str = "boom",
        after_s: float | None = None,
    ) -> None:
        del self.running[number]
        fine = ending is Ending.RETURNED
        outcome = Outcome(number, ending, 1, 2, result if fine else None, None if fine else error_log, after_s)
        self._sink([outcome])


class WatchedProducer:
    """The memory producer, with its messages in order, and failures and pauses at will."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.sent: list[Message] = []
        self.fail_next = 0  # how many messages get an error instead of an acknowledgement
        self.hold = False  # keep reports back
        self._held: list[tuple[Message, OnReport]] = []
        self._broker = broker

    def produce(self, message: Message, on_report: OnReport) -> None:
        if self.hold:
            self._held.append((message, on_report))
        elif self.fail_next:
            self.fail_next -= 1
            on_report(Report("timed out"))
        else:
            self.sent.append(message)
            on_report(self._broker.append(message))

    def produce_batch(self, messages: Sequence[Message], tags: Sequence[T], on_reports: OnReports[T]) -> None:
        for message, tag in zip(messages, tags, strict=True):
            self.produce(message, partial(self._reported, on_reports, tag))

    def _reported(self, on_reports: OnReports[T], tag: T, report: Report) -> None:
        on_reports([(tag, report)])

    def let_go(self) -> None:
        self.hold, held = False, self._held
        self._held = []
        for message, on_report in held:
            self.produce(message, on_report)

    def close(self, timeout_s: float) -> int:
        return len(self._held)
