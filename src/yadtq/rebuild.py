"""The thread that reads `Q.outcomes` back into the ledger: after a wipe, after lost writes, and what has expired.

One invariant: a ledger opens only behind a marker in every partition, with all that stands before the markers in it. So
nobody runs again what Kafka knows to be over, and what earlier lives write behind a marker does not count (R3, R4).
Every step but the last can be lost with its process: another worker begins anew under a higher epoch.
"""

import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping

from yadtq.broker import Broker, Message, Producer, Record, Report, TopicPartition
from yadtq.codec import Marker, OutcomeRecord, Undecodable, encode
from yadtq.errors import BrokerUnavailable, LedgerUnavailable
from yadtq.layout import HEADER_MARKER, QueueTopics
from yadtq.ledger import Errand, Ledger
from yadtq.service import Service
from yadtq.telemetry import Event, Telemetry
from yadtq.validity import Validity, epoch_of

AGAIN_S = 0.5
BATCH = 500  # records in one script: about 5 ms, during which Redis serves nobody else
BATCH_BYTES = 1 << 20
STALL_S = 10.0  # of Kafka, before the errand is given back
Ends = Mapping[TopicPartition, int]


class _Lost(Exception):
    """The errand is somebody else's by now."""


class Rebuilder(Service):
    """Does what `Ledger.take` asks for, when it is woken.

    Args:
        least_ms: How long a ledger has to wait, so that everybody who is alive has registered what it runs.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        producer: Producer,
        topics: QueueTopics,
        worker: str,
        least_ms: int,
        telemetry: Telemetry,
    ) -> None:
        super().__init__("yadtq-rebuilder")
        self._broker = broker
        self._ledger = ledger
        self._producer = producer
        self._topics = topics
        self._worker = worker
        self._least_ms = least_ms
        self._telemetry = telemetry
        self._wake = threading.Event()
        self._asked = False  # for what may have been forgotten: nobody reads all of it in for less
        self._used = False  # the queue is not new: something stands in its outcomes

    def wake(self, errand: Errand) -> None:
        """The ledger said that it has to be rebuilt, or what it forgot be read. Safe on any thread, and quick."""
        self._asked = self._asked or errand is Errand.READ
        self._wake.set()

    def stop(self) -> None:
        super().stop()
        self._wake.set()

    def run(self) -> None:
        self._wake.set()  # a new queue is opened before anybody asks
        while not self.stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            self.turns += 1
            if not self.stopping.is_set() and not self.turn():
                self.stopping.wait(AGAIN_S)
                self._wake.set()

    def turn(self) -> bool:
        """Do what there is to do; False: a store does not answer, try again."""
        token = uuid.uuid4().hex
        asked, self._asked = self._asked, False
        done = False
        try:
            errand = self._take(token)
            if errand in (Errand.REBUILD, Errand.READ):
                try:
                    if asked or errand is Errand.REBUILD:
                        self._do(errand, token)
                finally:
                    self._ledger.drop(self._topics.tasks, token)
            done = True
        except LedgerUnavailable as error:
            self._telemetry.failed("Redis", error)
            return False
        except BrokerUnavailable as error:
            self._telemetry.failed("Kafka", error)
            return False
        except _Lost:
            return False
        finally:
            self._asked = self._asked or (asked and not done)
        return True

    def _take(self, token: str) -> Errand:
        topic = self._topics.tasks
        errand = self._ledger.take(topic, token, self._least_ms)
        if errand is not Errand.EARLY or self._seen_used():
            return errand
        # Every opening writes markers first: where there is none, nobody was ever given anything to run.
        errand = self._ledger.take(topic, token, 0)
        if errand is Errand.REBUILD and self._seen_used():
            self._ledger.drop(topic, token)
            return Errand.EARLY
        return errand

    def _seen_used(self) -> bool:
        if not self._used:
            ends = self._broker.end_offsets(self._topics.outcomes)
            self._used = not ends or any(end > 0 for _, end in ends.values())
        return self._used

    def _do(self, errand: Errand, token: str) -> None:
        began_mono = time.monotonic()
        reading = _Reading(self._broker, self._ledger, self._topics, token, absent_only=errand is Errand.READ)
        was_used = self._seen_used()
        reading.read_to({where: end for where, (_, end) in self._broker.end_offsets(self._topics.outcomes).items()})
        epoch = 0
        if errand is Errand.REBUILD:
            epoch = self._ledger.allot(self._topics.tasks, token, reading.highest) or 0
            if not epoch:
                raise _Lost
            reading.read_to(self._mark(epoch, reading.positions))
        if not self._ledger.open(self._topics.tasks, token, epoch, reading.batches):
            raise _Lost
        self._telemetry.answered("Kafka")
        self._telemetry.answered("Redis")
        if was_used:
            seconds = time.monotonic() - began_mono
            odd = f", {reading.unreadable} unreadable" if reading.unreadable else ""
            detail = f"{reading.restored} records of {reading.records} outcomes in {seconds:.1f} s{odd}"
            self._telemetry.tell(Event("rebuilt" if epoch else "outcomes_read", detail=detail))

    def _mark(self, epoch: int, partitions: Iterable[TopicPartition]) -> Ends:
        """Write a marker to every partition; return where they stand."""
        value = encode(Marker(epoch=epoch, worker=self._worker))
        messages = [Message(where.topic, value, None, where.partition, {HEADER_MARKER: b"1"}) for where in partitions]
        reports: list[Report] = []
        complete = threading.Event()

        def on_reports(found: list[tuple[int, Report]]) -> None:
            reports.extend(report for _, report in found)
            if len(reports) == len(messages):
                complete.set()

        self._producer.produce_batch(messages, range(len(messages)), on_reports)
        if not complete.wait(STALL_S):
            raise BrokerUnavailable(f"Kafka has not acknowledged the markers of epoch {epoch} within {STALL_S:g} s")
        if problems := [report.error for report in reports if report.error]:
            raise BrokerUnavailable(f"Kafka does not take the markers of epoch {epoch}: {problems[0]}")
        return {TopicPartition(self._topics.outcomes, report.partition): report.offset for report in reports}


def open_queue(broker: Broker, ledger: Ledger, topics: QueueTopics) -> None:
    """Open the ledger of a queue whose first worker has not come yet, as that one would do."""
    producer = broker.producer()
    try:
        Rebuilder(broker, ledger, producer, topics, "", 0, Telemetry()).turn()
    finally:
        producer.close(STALL_S)


class _Reading:
    """Outcomes on their way from Kafka into the ledger. Holds one batch at a time."""

    def __init__(self, broker: Broker, ledger: Ledger, topics: QueueTopics, token: str, *, absent_only: bool) -> None:
        self.positions: dict[TopicPartition, int] = {}
        self.highest = 0  # of the epochs that stand in Kafka
        self.batches = 0
        self.records = 0
        self.restored = 0
        self.unreadable = 0
        self._broker = broker
        self._ledger = ledger
        self._topics = topics
        self._token = token
        self._absent_only = absent_only
        self._validity = Validity()
        self._waiting: list[OutcomeRecord] = []
        self._bytes = 0

    def read_to(self, ends: Ends) -> None:
        """Take in what stands before these offsets and was not read yet."""
        firsts = self._broker.end_offsets(self._topics.outcomes) if not self.positions else {}
        self.positions = {where: self.positions.get(where, firsts.get(where, (0, 0))[0]) for where in ends}
        for record in self._read(ends):
            self._take_in(record)
        self._restore()

    def _read(self, ends: Ends) -> Iterator[Record]:
        left = {where for where, end in ends.items() if self.positions[where] < end}
        if not left:
            return
        reader = self._broker.reader()
        try:
            reader.watch({where: self.positions[where] for where in left})
            heard_mono = time.monotonic()
            while left:
                records = reader.poll(1.0, BATCH)
                if records:
                    heard_mono = time.monotonic()
                elif time.monotonic() - heard_mono > STALL_S:
                    raise BrokerUnavailable(f"{self._topics.outcomes} cannot be read to its end: {sorted(left)}")
                else:
                    self._restore()  # keeps the lock
                for record in records:
                    if record.where in left:
                        self.positions[record.where] = record.offset + 1
                        if record.offset < ends[record.where]:
                            yield record
                left = {where for where in left if self.positions[where] < ends[where]}
        finally:
            reader.close()

    def _take_in(self, record: Record) -> None:
        self.records += 1
        try:
            outcome = self._validity.read(record)
        except Undecodable:
            self.unreadable += 1
            return
        epoch = epoch_of(outcome.fence) if outcome is not None else self._validity.epochs.get(record.where, 0)
        self.highest = max(self.highest, epoch)
        if outcome is not None:
            self._waiting.append(outcome)
            self._bytes += len(record.value)
        if len(self._waiting) >= BATCH or self._bytes >= BATCH_BYTES:
            self._restore()

    def _restore(self) -> None:
        restored = self._ledger.restore(self._topics.tasks, self._token, self._waiting, absent_only=self._absent_only)
        if restored is None:
            raise _Lost
        self.batches += 1
        self.restored += restored
        self._waiting, self._bytes = [], 0
