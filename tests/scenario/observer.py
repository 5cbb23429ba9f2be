"""Watches a queue from outside, ten times a second, while a drama goes on: what must hold at every moment.

- No commit passes an unfinished record (I6): everything below it has its outcome or dead letter in Kafka.
- Attempts never go down, and a final state never changes (I4); what is shown as final is in Kafka already (S1).

A moment in which Kafka or Redis does not answer is not judged.
"""

import threading

from yadtq import broker as brokers
from yadtq import ledger as ledgers
from yadtq.broker import Reader, TopicPartition
from yadtq.codec import Undecodable, decode, decode_outcome
from yadtq.errors import Unavailable
from yadtq.layout import HEADER_MARKER, HEADER_SOURCE, HEADER_TASK, QueueTopics
from yadtq.ledger import TaskRecord
from yadtq.settings import Settings
from yadtq.states import State

EVERY_S = 0.1
RECORDS = 500  # of a long drama, so many records a look, in turn; every commit is judged at every look


class Observer:
    """Its findings are raised by `verdict`."""

    def __init__(self, settings: Settings, topics: QueueTopics, group: str) -> None:
        self.samples = 0
        self.moves = 0  # how often a committed offset was seen to move
        self.violations: list[str] = []
        self._broker = brokers.connect(settings)
        self._ledger = ledgers.connect(settings)
        self._topics = topics
        self._group = group
        self._committed: dict[TopicPartition, int] = {}
        self._present: dict[int, dict[int, str]] = {}  # partition, offset: what was published; "": it has no id
        self._dead: set[tuple[int, int]] = set()  # of what has no id: those with a dead letter in Kafka
        self._ended: set[str] = set()  # task ids with an outcome in Kafka
        self._task_ids: list[str] = []
        self._turn = 0
        self._records: dict[str, TaskRecord] = {}
        self._next: dict[TopicPartition, int] = {}
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def verdict(self) -> None:
        """Fail where something was seen that must not be, or where nothing was seen at all."""
        if self._failure is not None:
            raise self._failure
        assert self.violations == []
        assert self.samples >= 5, f"only {self.samples} samples: void"
        assert self.moves >= 2, f"the committed offsets moved {self.moves} times: void"

    def _run(self) -> None:
        reader = self._broker.reader()
        try:
            while not self._stopping.wait(EVERY_S):
                self._try_to_look(reader)
            any(self._try_to_look(reader) for _ in range(3))  # once more, at how it ended
        except BaseException as error:  # raised again by `verdict`
            self._failure = error
        finally:
            reader.close()
            self._broker.close()
            self._ledger.close()

    def _try_to_look(self, reader: Reader) -> bool:
        try:
            self._look(reader)
        except Unavailable:
            return False
        return True

    def _look(self, reader: Reader) -> None:
        """First what depends, then what it depends on: so nothing that is right looks wrong."""
        committed = self._broker.committed(self._topics.tasks, self._group)
        records = [record for record in self._ledger.records(self._in_turn()) if record is not None]
        self._read(reader)
        for where, position in committed.items():
            self._judge_commit(where, position.offset)
        for record in records:
            self._judge_record(record)
        self.samples += 1

    def _in_turn(self) -> list[str]:
        turn = self._turn if self._turn < len(self._task_ids) else 0
        self._turn = turn + RECORDS
        return self._task_ids[turn : self._turn]

    def _judge_commit(self, where: TopicPartition, offset: int) -> None:
        before = self._committed.get(where, 0)
        if offset < before:
            self.violations.append(f"partition {where.partition}: committed {before}, then {offset}")
        self.moves += offset != before
        self._committed[where] = offset
        partition, present = where.partition, self._present.get(where.partition, {})
        passed = [at for at in range(before, offset) if at in present]  # what was finished at the last look still is
        if unfinished := [at for at in passed if (partition, at) not in self._dead and present[at] not in self._ended]:
            self.violations.append(f"partition {partition}: committed {offset}, unfinished {unfinished}")

    def _judge_record(self, record: TaskRecord) -> None:
        before = self._records.get(record.task_id)
        self._records[record.task_id] = record
        if record.final and record.task_id not in self._ended:
            self.violations.append(f"{record.task_id} is shown {record.status}, and Kafka has no outcome of it")
        if before is None:
            return
        # A claim that had not started gives its attempt back (C1); that is no attempt made.
        given_back = before.status is State.PROCESSING and record.status is State.QUEUED
        if record.attempts < before.attempts - given_back:
            self.violations.append(f"{record.task_id}: {before.attempts} attempts, then {record.attempts}")
        ends = [(r.status, r.result, r.error_log, r.attempts) for r in (before, record)]
        if before.final and ends[0] != ends[1]:
            self.violations.append(f"{record.task_id} was {ends[0]} and became {ends[1]}")

    def _read(self, reader: Reader) -> None:
        """Take in all that Kafka holds by now."""
        ends: dict[TopicPartition, int] = {}
        for topic in self._topics.all:
            for where, (first, last) in self._broker.end_offsets(topic).items():
                ends[where] = last
                if where not in self._next:
                    self._next[where] = first
                    reader.watch({where: first})
        while any(self._next[where] < last for where, last in ends.items()):
            for record in reader.poll(EVERY_S, 1_000):
                self._next[record.where] = record.offset + 1
                self._take(record.topic, record.partition, record.offset, record.value, dict(record.headers))

    def _take(self, topic: str, partition: int, offset: int, value: bytes, headers: dict[str, bytes]) -> None:
        if topic == self._topics.tasks:
            present = self._present.setdefault(partition, {})
            present[offset] = ""
            try:
                present[offset] = decode(value).task_id
            except Undecodable:
                return
            self._task_ids.append(present[offset])
        elif topic == self._topics.outcomes and HEADER_MARKER in headers:
            return
        elif topic == self._topics.outcomes:
            self._ended.add(decode_outcome(value).task_id)
        elif (
            topic == self._topics.dead and HEADER_TASK not in headers
        ):  # of bytes that have no id, the dead letter is the end
            _, source_partition, source_offset = headers[HEADER_SOURCE].decode().rsplit("/", 2)
            self._dead.add((int(source_partition), int(source_offset)))
