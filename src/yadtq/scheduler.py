"""The thread that keeps what waits for a time, and fires it when the time has come.

One invariant: what waits is carried by `Q.delayed` until its envelope is acknowledged in `Q`, and nobody writes its
tombstone before (T2). A crash between any two steps means that it is fired again, which does no harm: the claim is on
task id and generation. What waits lies in the ledger's index and not in this process, however much it is.

    Q.delayed -> index -> due by the ledger's clock -> Q, awaited -> tombstone, awaited -> out of the index

It has a consumer and a group of its own: one subscription to both topics left one of two workers with all of Q and the
other with none.
"""

import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from yadtq.broker import Broker, Consumer, Message, Producer, Record, Report, TopicPartition, membership
from yadtq.codec import Undecodable
from yadtq.delayed import due, entry_of, is_key, read_key, tombstone
from yadtq.errors import BrokerUnavailable, LedgerUnavailable
from yadtq.heartbeat import Identity
from yadtq.layout import HEADER_REASON, HEADER_SHA256, QueueTopics
from yadtq.ledger import Due, Errand, Ledger, Look, Waiting
from yadtq.offsets import Position
from yadtq.refusals import Refusals
from yadtq.service import Clock, Service
from yadtq.settings import WorkerSettings
from yadtq.telemetry import Event, Telemetry
from yadtq.writes import dead_letter, reference

POLL_S = 0.1
POLL_MOST = 500
LOOK_S = 1.0  # the longest time between two looks: an index that was lost is noticed by then
AGAIN_S = 0.25
FIRE_MOST = 500  # in one look at all partitions
PARTITIONS_FRESH_S = 5.0
COMMIT_S = 1.0


@dataclass(slots=True)
class Shelf:
    """One partition of `Q.delayed` while this worker has it."""

    upto: int | None = None  # how far the index goes, as we know it; None: it has to be asked, and read on from there
    begin: int = 0  # what lies before is in the index
    end: int = 0  # below this lie tombstones that may not be in the index yet: nothing fires before they are
    look_mono: float = 0.0  # when something may be due
    committed: int = -1
    resting: bool = False

    @property
    def ready(self) -> bool:
        """Whether what the index says is due is due."""
        return self.upto is not None and self.upto >= self.end


class Step(NamedTuple):
    """What a message was sent for."""

    kind: Literal["fire", "bury", "dead"]  # an envelope to Q, its tombstone, a dead letter
    where: TopicPartition
    key: str
    offset: int  # of the record in `Q.delayed` that it is about
    message: Message


class Scheduler(Service):
    """Reads `Q.delayed` as a member of a group and fires what is due in its partitions.

    Args:
        group: The group of `Q.delayed`.
        recover: Called when outcomes have to be read in first, with what has to be done.
    """

    def __init__(
        self,
        broker: Broker,
        producer: Producer,
        ledger: Ledger,
        topics: QueueTopics,
        group: str,
        settings: WorkerSettings,
        telemetry: Telemetry,
        clock: Clock,
        *,
        identity: Identity,
        recover: Callable[[Errand], None],
    ) -> None:
        super().__init__("yadtq-scheduler")
        self._broker = broker
        self._producer = producer
        self._index = ledger.due
        self._topics = topics
        self._group = group
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._recover = recover
        self._refusals = Refusals(ledger, producer, topics, identity, telemetry, clock, recover)
        self._shelves: dict[TopicPartition, Shelf] = {}
        self._reports: queue.SimpleQueue[list[tuple[Step, Report]]] = queue.SimpleQueue()
        self._under_way = 0  # envelopes and tombstones without a report
        self._leaving: dict[TopicPartition, list[tuple[str, int]]] = {}  # what leaves the index, of any partition
        self._failed: list[Step] = []  # dead letters that Kafka did not take
        self._failed_mono = 0.0  # when they are sent again
        self._again_mono = 0.0  # a store did not answer: not before
        self._commit_mono = 0.0
        self._turn = 0
        self._count, self._fresh_until = 0, 0.0  # partitions of Q

    def run(self) -> None:
        with membership(self._broker, self._topics.delayed, self._group, self, self._settings) as consumer:
            while not self.stopping.is_set():
                self.turn(consumer)

    def turn(self, consumer: Consumer) -> None:
        """One round: hear what Kafka has taken, poll, index what came, fire what is due."""
        self.turns += 1
        try:
            self._hear()
            self._poll(consumer)
            self._fire()
        except BrokerUnavailable as error:
            self._telemetry.failed("Kafka", error)
            self._later()
            self.stopping.wait(POLL_S)
        except LedgerUnavailable as error:
            self._telemetry.failed("Redis", error)
            self._later()

    def _later(self) -> None:
        self._again_mono = self._clock.mono_s() + AGAIN_S

    @property
    def _may_ask(self) -> bool:
        return self._clock.mono_s() >= self._again_mono

    # -- Q.delayed into the index --------------------------------------------------------------------------------------

    def _poll(self, consumer: Consumer) -> None:
        self._find_places(consumer)
        records = consumer.poll(0.0 if self._under_way else self._wait_s(), POLL_MOST)
        of_partitions: dict[TopicPartition, list[Record]] = {}
        for record in records:
            of_partitions.setdefault(record.where, []).append(record)
        taken: list[tuple[TopicPartition, Shelf, int, list[Record]]] = []
        for where, together in of_partitions.items():
            shelf = self._shelves.get(where)
            if shelf is None or shelf.upto is None:  # it is read again, from where the index ends
                continue
            fresh = [record for record in together if record.offset >= shelf.begin]
            if fresh:
                taken.append((where, shelf, shelf.upto, fresh))
                shelf.upto = None  # until the index has them: if one partition fails, all behind it are read again
        for where, shelf, expected, fresh in taken:
            self._take(where, shelf, expected, fresh)
        self._commit(consumer)

    def _wait_s(self) -> float:
        now = self._clock.mono_s()
        times = [shelf.look_mono for shelf in self._shelves.values() if shelf.ready]
        return max(min([POLL_S, *(max(at, self._again_mono) - now for at in times)]), 0.0)

    def _find_places(self, consumer: Consumer) -> None:
        """Read on where the index ends: of partitions that came, and where the index is not what it was."""
        lost = [where for where, shelf in self._shelves.items() if shelf.upto is None]
        if not lost:
            return
        if not self._may_ask:
            self._rest(consumer, lost)
            return
        places = self._index.places(self._topics.tasks, [where.partition for where in lost])
        self._telemetry.answered("Redis")
        ends = self._broker.end_offsets(self._topics.delayed)
        for where, place in zip(lost, places, strict=True):
            shelf = self._shelves[where]
            first, end = ends.get(where, (0, 0))
            shelf.upto, shelf.look_mono, shelf.end = place.upto, 0.0, end if end > first else 0
            shelf.begin = place.upto if place.upto <= end else 0  # another topic under an old name is read from 0 on
            consumer.seek(where, shelf.begin)
            if shelf.resting:
                shelf.resting = False
                consumer.resume([where])

    def _rest(self, consumer: Consumer, lost: Sequence[TopicPartition]) -> None:
        """What is read now would be thrown away: wait for the index."""
        for where in lost:
            if not self._shelves[where].resting:
                self._shelves[where].resting = True
                consumer.pause([where])

    def _take(self, where: TopicPartition, shelf: Shelf, expected: int, records: Sequence[Record]) -> None:
        waiting: dict[str, Waiting | None] = {}  # the last word about a key counts; None: a tombstone
        for record in records:
            key = (record.key or b"").decode(errors="replace")
            waits = record.value and HEADER_REASON not in record.headers  # else it is kept for its dead letter
            try:
                waiting[key] = entry_of(record, self._topics) if waits else None
            except Undecodable as error:
                self._bury(record, error.reason)
        upto = records[-1].offset + 1
        entries = [entry for entry in waiting.values() if entry is not None]
        over = [key for key, entry in waiting.items() if entry is None]
        look = self._index.put(self._topics.tasks, where.partition, expected, upto, entries, over)
        if self._heard(shelf, look, upto):
            for entry in entries:
                self._tell("scheduled", where, entry.key)

    def _heard(self, shelf: Shelf, look: Look, expected: int) -> bool:
        """Take what the index says of a partition; False: it did nothing."""
        self._telemetry.answered("Redis")
        if look.closed:
            self._recover(Errand.REBUILD)
            self._later()
            return False
        if look.upto != expected:
            shelf.upto = None
            return False
        shelf.upto = look.upto
        wait_s = LOOK_S if look.wait_ms is None else min(look.wait_ms / 1000, LOOK_S)
        shelf.look_mono = self._clock.mono_s() + wait_s
        return True

    def _bury(self, record: Record, reason: str) -> None:
        """Bytes that are no envelope hold up nothing. They stay where they are too: nobody knows what they are."""
        letter = dead_letter(record, self._topics, reason, None)
        self._telemetry.tell(Event("dead_lettered", record.partition, record.offset, detail=reason))
        # Not waited for: it still lies there, and an index that is read anew finds it again.
        self._send([Step("dead", record.where, "", record.offset, letter)])

    def _commit(self, consumer: Consumer) -> None:
        """For whoever looks at the group's lag; where a partition is read on is said by the index alone."""
        now = self._clock.mono_s()
        if now < self._commit_mono:
            return
        self._commit_mono = now + COMMIT_S
        moved = {
            where: Position(shelf.upto, "")
            for where, shelf in self._shelves.items()
            if shelf.upto is not None and shelf.upto > shelf.committed
        }
        if moved:
            consumer.commit(moved, wait=False)

    # -- firing --------------------------------------------------------------------------------------------------------

    def _fire(self) -> None:
        """Look for what is due, one look at a time, and send it on its way."""
        now = self._clock.mono_s()
        if self._failed and now >= self._failed_mono:
            failed, self._failed = self._failed, []
            self._send(failed)
        if self._under_way or not self._may_ask:
            return
        self._settle_refused()
        self._take_out()
        # T2: as the last poll left it, these are ours, and nothing is polled between here and the sending.
        ours = {where: shelf for where, shelf in self._shelves.items() if shelf.ready and shelf.look_mono <= now}
        if not ours or self.stopping.is_set():
            return
        expected = {where.partition: shelf.upto or 0 for where, shelf in ours.items()}
        looks = self._index.look(self._topics.tasks, expected, max(FIRE_MOST // len(ours), 10))
        steps: list[Step] = []
        for where, shelf in ours.items():
            look = looks[where.partition]
            if self._heard(shelf, look, expected[where.partition]):
                steps += [self._step(where, entry) for entry in look.due if (where, entry.key) not in self._refusals]
        self._send(steps)

    def _step(self, where: TopicPartition, entry: Due) -> Step:
        if entry.over:
            self._tell("unfired", where, entry.key)
            return self._tombstone(where, entry.key, entry.offset)
        record = Record(where.topic, where.partition, entry.offset, entry.value, headers=entry.headers)
        return Step("fire", where, entry.key, entry.offset, due(record, self._topics, self._next_partition()))

    def _tombstone(self, where: TopicPartition, key: str, offset: int) -> Step:
        return Step("bury", where, key, offset, tombstone(key.encode(), where.partition, self._topics))

    def _next_partition(self) -> int:
        if self._clock.mono_s() >= self._fresh_until:
            self._count = self._broker.partitions().get(self._topics.tasks, 1)
            self._fresh_until = self._clock.mono_s() + PARTITIONS_FRESH_S
        self._turn += 1
        return self._turn % self._count

    def _send(self, steps: Sequence[Step]) -> None:
        if steps:
            self._under_way += sum(step.kind != "dead" for step in steps)
            self._producer.produce_batch([step.message for step in steps], steps, self._reports.put)

    def _hear(self) -> None:
        """Go on with what Kafka has taken; wait a moment for it where something is under way."""
        heard: list[tuple[Step, Report]] = []
        try:
            heard += self._reports.get(timeout=POLL_S) if self._under_way and POLL_S else self._reports.get_nowait()
            while True:
                heard += self._reports.get_nowait()
        except queue.Empty:
            self._under_way -= sum(step.kind != "dead" for step, _ in heard)
        self._send([then for step, report in heard for then in self._next(step, report)])

    def _next(self, step: Step, report: Report) -> list[Step]:
        """What follows on a report: the tombstone on the envelope, the way out of the index on the tombstone."""
        if report.error is not None:
            return self._not_taken(step, report)
        self._telemetry.answered("Kafka")
        if step.kind == "fire":
            self._tell("fired", step.where, step.key, report.partition, report.offset)
            return [self._tombstone(step.where, step.key, step.offset)]
        if step.kind == "dead" and step.message.key and HEADER_SHA256 not in step.message.headers:
            return self._erase(step)
        if step.kind == "bury" and step.key:
            self._leaving.setdefault(step.where, []).append((step.key, step.offset))
        return []

    def _erase(self, step: Step) -> list[Step]:
        """The tombstone of bytes that have their dead letter, else each reading from the start would write another.

        Not under the key of a task and generation: what waits under it, before or behind, is not theirs to erase.
        """
        key = step.message.key or b""
        if is_key(key):
            return []
        return [Step("bury", step.where, "", step.offset, tombstone(key, step.where.partition, self._topics))]

    def _settle_refused(self) -> None:
        """Go on with what Kafka refused in `Q`: what is over gets its tombstone, unless its bytes have to stay."""
        steps: list[Step] = []
        for refused, fired, over in self._refusals.turn():
            where, offset = refused.record.where, refused.record.offset
            if over and refused.kept:
                self._leaving.setdefault(where, []).append((refused.key, offset))
                continue
            if fired:
                self._tell("fired", where, refused.key, fired.partition, fired.offset)
            steps.append(self._tombstone(where, refused.key, offset))
        self._send(steps)

    def _not_taken(self, step: Step, report: Report) -> list[Step]:
        """What was fired or tombstoned stays in the index and is found due again; a dead letter is sent again."""
        if step.kind == "dead" and report.too_large and HEADER_SHA256 not in step.message.headers:
            return [step._replace(message=reference(step.message))]
        if step.kind == "fire" and report.too_large:
            self._refusals.add(step.where, step.key, step.offset, step.message)
            return []
        self._telemetry.failed("Kafka", f"Kafka does not take a record: {report.error}")
        again_mono = self._clock.mono_s() + AGAIN_S
        if step.kind == "dead":
            self._failed.append(step)
            self._failed_mono = again_mono
        elif step.where in self._shelves:
            self._shelves[step.where].look_mono = again_mono
        return []

    def _take_out(self) -> None:
        """Also of partitions that have gone meanwhile: whoever has them need not fire what has fired."""
        while self._leaving:
            where, entries = next(iter(self._leaving.items()))
            self._index.remove(self._topics.tasks, where.partition, entries)
            del self._leaving[where]

    def _tell(self, kind: str, where: TopicPartition, key: str, partition: int = -1, offset: int = -1) -> None:
        if self._telemetry.wanted(kind):
            task_id, generation = read_key(key.encode())
            detail = f"generation {generation}, from partition {where.partition} of {where.topic}"
            self._telemetry.tell(Event(kind, partition, offset, task_id, detail=detail))
        else:
            self._telemetry.counts[kind] += 1

    # The broker's listener: called on this thread, inside poll and close.

    def assigned(self, partitions: Mapping[TopicPartition, Position]) -> None:
        self._telemetry.answered("Kafka")
        self._shelves |= {where: Shelf() for where in partitions}

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        for where in partitions:  # T2: nothing of these is fired any more; what is under way is finished
            self._shelves.pop(where, None)

    lost = revoked

    def answered(self) -> None:
        self._telemetry.answered("Kafka")

    def committed(self, positions: Mapping[TopicPartition, Position], error: str | None) -> None:
        for where, position in positions.items():
            if error is None and where in self._shelves:
                self._shelves[where].committed = position.offset
