"""The thread that owns the Kafka consumer: it polls, commits, pauses and resumes, and nothing else.

One invariant: what is committed comes from the tracker of the present assignment, so no commit passes a record whose
fate is not durable. Trackers belong to one assignment: a completion for an older one is ignored (a duplicate beats a
loss). When the process dies, the next owner reads from the last commit on.
"""

import itertools
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

from yadtq.broker import Broker, Consumer, Record, TopicPartition, membership
from yadtq.errors import BrokerUnavailable
from yadtq.offsets import SPAN, Position, Tracker
from yadtq.service import Clock, Service
from yadtq.settings import WorkerSettings
from yadtq.telemetry import Event, Telemetry

POLL_S = 0.05
POLL_MOST = 500
WINDOW = 2_000  # unfinished records of a partition in memory; above it the partition is paused, below half resumed
HOST_MOST = (
    4_000  # unfinished records in memory, of all partitions; above it they come one by one, below half again many
)
HOST_BYTES = 64 * 1024 * 1024  # the same in bytes
SLOW_S = (
    0.5  # a full host that is not half empty by then is slow: partitions that hold more than their share are paused
)
ALL = sys.maxsize  # offsets

_numbers = itertools.count(1)


class Assignment:
    """One partition while this worker has it. Used by the intake and the engine, hence the lock.

    Args:
        doubted_below: The records before this offset may have ended long ago, if the group has committed nothing (R5).
    """

    def __init__(self, where: TopicPartition, position: Position, doubted_below: int = ALL) -> None:
        self.number = next(_numbers)
        self.where = where
        self.gone = False
        self.paused = False
        self.closed = 0  # completions since the last commit
        self.offset = position.offset  # what is committed
        self._doubted_below = 0 if position.committed else doubted_below
        self._tracker = Tracker(position.metadata, position.offset)
        self._held: dict[int, tuple[int, int]] = {}  # of what is unfinished: time in epoch ms, bytes
        self.unfinished = 0
        self.unfinished_bytes = 0
        self._lock = threading.Lock()

    def open(self, records: Sequence[Record]) -> list[Record]:
        """Note that records arrived; return those that nobody has finished."""
        with self._lock:
            fresh = [record for record in records if self._tracker.open(record.offset)]
            for record in fresh:
                size = len(record.value)
                self._held[record.offset] = (record.timestamp_ms, size)
                self.unfinished_bytes += size
            self.unfinished += len(fresh)
        return fresh

    def close(self, *offsets: int) -> None:
        """The fate of records is durable. Nothing happens where the partition has moved on meanwhile."""
        with self._lock:
            if self.gone:
                return
            for offset in offsets:
                self._tracker.close(offset)
                self.unfinished_bytes -= self._held.pop(offset)[1]
            self.unfinished -= len(offsets)
            self.closed += len(offsets)

    def doubts(self, record: Record) -> bool:
        """Whether this record's task may have ended long ago, and its commit and its ledger record be forgotten."""
        return record.offset < self._doubted_below

    @property
    def head(self) -> tuple[int, int] | None:
        """Offset and time, in epoch ms, of the oldest unfinished record; None where there is none."""
        with self._lock:
            head = self._tracker.head
            return None if head is None else (head, self._held[head][0])

    def committable(self) -> Position | None:
        with self._lock:
            return self._tracker.committable()

    def committed(self, position: Position) -> None:
        with self._lock:
            self._tracker.committed(position)
            self.offset = position.offset

    def leave(self) -> None:
        with self._lock:
            self.gone = True

    @property
    def full(self) -> bool:
        with self._lock:
            return self._tracker.unfinished >= WINDOW or self._tracker.span >= SPAN

    @property
    def half_full(self) -> bool:
        with self._lock:
            return self._tracker.unfinished >= WINDOW // 2 or self._tracker.span >= SPAN // 2

    @property
    def half_empty(self) -> bool:
        with self._lock:
            return self._tracker.unfinished <= WINDOW // 2 and self._tracker.span <= SPAN // 2


class Intake(Service):
    """Polls one topic as a member of a group and tells the engine what it gets and loses."""

    def __init__(
        self,
        broker: Broker,
        topic: str,
        group: str,
        settings: WorkerSettings,
        telemetry: Telemetry,
        clock: Clock,
        *,
        on_assigned: Callable[[Assignment], None],
        on_gone: Callable[[Assignment], None],
        on_records: Callable[[Sequence[tuple[Assignment, Record]]], None],
    ) -> None:
        super().__init__("yadtq-intake")
        self.assignments: dict[TopicPartition, Assignment] = {}
        self._broker = broker
        self._topic = topic
        self._group = group
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._on_assigned = on_assigned
        self._on_gone = on_gone
        self._on_records = on_records
        self._commit_mono = 0.0
        self._full_mono: float | None = None  # since when the host has been full

    def run(self) -> None:
        # The revocation in leaving commits what is finished.
        with membership(self._broker, self._topic, self._group, self, self._settings) as consumer:
            while not self.stopping.is_set():
                self.turn(consumer)

    def turn(self, consumer: Consumer) -> None:
        """One round: poll, hand on, pause or resume, commit what is due."""
        self.turns += 1
        self._consumer = consumer
        try:
            # A poll serves the group's callbacks only if it asks for something: one by one is as little as can be.
            records = consumer.poll(POLL_S, POLL_MOST if self._full_mono is None else 1)
        except BrokerUnavailable as error:
            self._telemetry.failed("Kafka", error)
            self.stopping.wait(POLL_S)
            return
        if records:
            self._take(records)
        self._pace(consumer)
        self._commit_due(consumer)
        if self._full_mono is not None:
            self.stopping.wait(POLL_S / 5)

    def _take(self, records: Sequence[Record]) -> None:
        of_partitions: dict[int, list[Record]] = {}
        for record in records:
            of_partitions.setdefault(record.partition, []).append(record)
        opened: list[tuple[Assignment, Record]] = []
        for partition, together in of_partitions.items():
            assignment = self.assignments.get(TopicPartition(self._topic, partition))
            if assignment is not None:
                opened += [(assignment, record) for record in assignment.open(together)]
        self._on_records(opened)

    def _pace(self, consumer: Consumer) -> None:
        """Take in less while the host is full; pause what is full for long.

        Pausing throws away what the client has fetched ahead, and a resume waits for the next fetch: a backlog of quick
        tasks, which is full at every moment, must not be paused, or the engine starves between two fetches.
        """
        everything = self.assignments.values()
        held, now = sum(at.unfinished for at in everything), self._clock.mono_s()
        large = sum(at.unfinished_bytes for at in everything)
        if self._full_mono is None and (held >= HOST_MOST or large >= HOST_BYTES):
            self._full_mono = now
        elif held <= HOST_MOST // 2 and large <= HOST_BYTES // 2:
            self._full_mono = None
        slow = self._full_mono is not None and now - self._full_mono > SLOW_S
        for assignment in everything:
            full = assignment.full or (slow and assignment.unfinished > HOST_MOST // len(self.assignments))
            if not assignment.paused and full:
                assignment.paused = True
                consumer.pause([assignment.where])
            elif assignment.paused and not full and assignment.half_empty:
                assignment.paused = False
                consumer.resume([assignment.where])

    def _commit_due(self, consumer: Consumer) -> None:
        now = self._clock.mono_s()
        closed = sum(assignment.closed for assignment in self.assignments.values())
        if now - self._commit_mono >= self._settings.commit_s or closed >= self._settings.commit_after:
            self._commit_mono = now
            self._commit(consumer, list(self.assignments), wait=False)

    def _commit(self, consumer: Consumer, partitions: Sequence[TopicPartition], *, wait: bool) -> None:
        positions: dict[TopicPartition, Position] = {}
        for where in partitions:
            assignment = self.assignments[where]
            assignment.closed = 0
            position = assignment.committable()
            if position is not None:
                positions[where] = position
        if positions:
            consumer.commit(positions, wait=wait)

    # The broker's listener: called on this thread, inside poll and close.

    def assigned(self, partitions: Mapping[TopicPartition, Position]) -> None:
        self._telemetry.answered("Kafka")
        ends = self._ends() if any(not position.committed for position in partitions.values()) else {}
        for where, position in partitions.items():
            assignment = self.assignments[where] = Assignment(where, position, ends.get(where, ALL))
            self._telemetry.tell(Event("assigned", where.partition, position.offset))
            self._on_assigned(assignment)

    def _ends(self) -> Mapping[TopicPartition, int]:
        """Where the partitions end now: what comes behind has certainly not ended before (R5), whatever clocks say."""
        try:
            return {where: end for where, (_, end) in self._broker.end_offsets(self._topic).items()}
        except BrokerUnavailable as error:  # so everything is in doubt, which costs a reading of the outcomes
            self._telemetry.failed("Kafka", error)
            return {}

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        known = [where for where in partitions if where in self.assignments]
        self._commit(self._consumer, known, wait=True)
        self._drop(known, "revoked")

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self._drop([where for where in partitions if where in self.assignments], "lost")

    def _drop(self, partitions: Sequence[TopicPartition], kind: str) -> None:
        for where in partitions:
            assignment = self.assignments.pop(where)
            assignment.leave()
            self._telemetry.tell(Event(kind, where.partition, assignment.offset))
            self._on_gone(assignment)

    def answered(self) -> None:
        self._telemetry.answered("Kafka")

    def committed(self, positions: Mapping[TopicPartition, Position], error: str | None) -> None:
        for where, position in positions.items():
            if error is not None:  # the state stays dirty, so the next round commits it again
                self._telemetry.failed("Kafka", f"partition {where.partition} is not committed, trying again: {error}")
            elif where in self.assignments:
                self.assignments[where].committed(position)
                self._telemetry.answered("Kafka")
                self._telemetry.tell(Event("committed", where.partition, position.offset))
