"""Calls to records in Kafka, and from there to QUEUED or SCHEDULED records in the ledger.

One invariant: what is wrong with any call is found before the first is sent, and a call counts as published only with
Kafka's report. Redis is not on that road: when it is down the view is late. When the process dies, what was reported
is in Kafka.
"""

import contextlib
import itertools
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec

from yadtq import codec
from yadtq.broker import Broker, Message, Producer, Report, ensure_topic
from yadtq.delayed import delayed
from yadtq.envelope import Envelope
from yadtq.errors import InvalidArguments, LedgerUnavailable, SubmitError, SubmitUnknown, TooLarge
from yadtq.layout import DEAD_CONFIG, DELAYED_CONFIG, OUTCOMES_CONFIG, TASKS_CONFIG, Layout, QueueTopics
from yadtq.ledger import Ledger, NewTask
from yadtq.task import Call
from yadtq.when import not_before_ms

log = logging.getLogger("yadtq")

DEFAULT_PARTITIONS = 8
REPORT_S = 30.0  # longer than the client tries, so that its own verdict comes first
PARTITIONS_FRESH_S = 30.0
LATE_QUEUED_S = 60.0  # a QUEUED write later than this could meet a record that came and expired


def ensure_queue(broker: Broker, topics: QueueTopics, partitions: int) -> int:
    """Create the topics of a queue where they are missing; return how many partitions the first has."""
    # The outcomes topic is what makes a queue known, so it comes last: whoever sees it finds the others.
    count = ensure_topic(broker, topics.tasks, partitions, TASKS_CONFIG)
    ensure_topic(broker, topics.dead, 1, DEAD_CONFIG)
    ensure_topic(broker, topics.delayed, count, DELAYED_CONFIG)
    ensure_topic(broker, topics.outcomes, count, OUTCOMES_CONFIG)
    return count


@dataclass
class Sent:
    """Calls that were given to the producer, and their reports as they come."""

    tasks: list[Envelope]
    topics: list[str]
    reports: dict[str, Report] = field(default_factory=dict)
    done: "Future[None]" = field(default_factory=Future)
    at_mono: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)  # reports come from the sender and the client's thread

    @property
    def task_ids(self) -> list[str]:
        return [task.task_id for task in self.tasks]

    def report(self, task_id: str, report: Report) -> None:
        with self.lock:
            self.reports[task_id] = report
            complete = len(self.reports) == len(self.tasks)
        if complete:
            self.done.set_result(None)

    def wait(self, timeout_s: float) -> None:
        """Wait for all reports, then raise what the worst of them says."""
        with contextlib.suppress(TimeoutError):
            self.done.result(timeout_s)
        silent = Report(f"none within {REPORT_S:g} s")
        failed = {task_id: self.reports.get(task_id, silent) for task_id in self.task_ids}
        failed = {task_id: report for task_id, report in failed.items() if report.error}
        unknown = [task_id for task_id, report in failed.items() if not report.refused]
        if unknown:
            raise SubmitUnknown(unknown[0], failed[unknown[0]].error or "", self.task_ids, list(failed))
        for task_id, report in failed.items():
            published = len(self.task_ids) - len(failed)
            rest = f"; {published} of the {len(self.task_ids)} calls were published" if published else ""
            raise SubmitError(f"Kafka refused task {task_id!r}: {report.error}{rest}")


class Together:
    """Writes of many threads at the same time, as one: while one is under way the next ones gather (group commit)."""

    def __init__(self, write: Callable[[Sequence[NewTask]], None]) -> None:
        self._write = write
        self._gathering = _Portion()
        self._guard = threading.Lock()
        self._under_way = threading.Lock()

    def write(self, tasks: Sequence[NewTask]) -> None:
        """Return when these are written; raises what the write raised."""
        with self._guard:
            mine = self._gathering
            mine.tasks += tasks
        with self._under_way:
            if not mine.written:
                with self._guard:
                    self._gathering = _Portion()
                mine.written = True
                try:
                    self._write(mine.tasks)
                except LedgerUnavailable as error:
                    mine.error = error
        if mine.error is not None:
            raise mine.error


@dataclass
class _Portion:
    tasks: list[NewTask] = field(default_factory=list)
    written: bool = False
    error: LedgerUnavailable | None = None


class Publisher:
    """Calls to records in Kafka, then to QUEUED records in the ledger."""

    def __init__(
        self, broker: Broker, ledger: Ledger, layout: Layout, limit_bytes: int, first_turn: int | None = None
    ) -> None:
        self.unrecorded: set[str] = set()  # Kafka has them, their QUEUED record could not be written
        self._broker = broker
        self._together = Together(ledger.queued)
        self._layout = layout
        self._limit_bytes = limit_bytes
        self._producer: Producer = broker.producer()
        self._turns: dict[str, tuple[int, float]] = {}  # partitions of a topic, and until when that is fresh
        # Many short-lived clients must not all begin at partition 0.
        self._counter = itertools.count(random.randrange(1 << 16) if first_turn is None else first_turn)

    def prepare(self, call: Call) -> Envelope:
        """Make the envelope of a call. Nothing is sent.

        Raises:
            InvalidArguments: The id cannot be used, the start is too far away, or a worker would not take the envelope.
            TooLarge: Over the size limit.
        """
        task_id, now_ms = call.options.task_id or uuid.uuid4().hex, time.time_ns() // 1_000_000
        try:
            start_ms = not_before_ms(call.options.delay_s, call.options.at_ms, now_ms)
        except ValueError as error:
            raise InvalidArguments(call.task_type, str(error)) from error
        envelope = Envelope(
            task_id=task_id,
            task_type=call.task_type,
            task_args=msgspec.Raw(call.args),
            task_kwargs=msgspec.Raw(call.kwargs),
            task_tries=call.tries,
            queued_at_ms=now_ms,
            max_attempts=call.options.max_attempts,
            not_before_ms=start_ms,
        )
        problem = codec.problem_of(envelope)
        if problem:
            raise InvalidArguments(call.task_type, problem)
        size_bytes = len(codec.encode(envelope))
        if size_bytes > self._limit_bytes:
            raise TooLarge(size_bytes, self._limit_bytes)
        return envelope

    def send(self, calls: Sequence[Call]) -> Sent:
        """Give calls to the producer. What is wrong with any of them is found before the first is sent."""
        chosen = [call.options.task_id for call in calls if call.options.task_id is not None]
        if len(chosen) != len(set(chosen)):
            raise InvalidArguments(calls[0].task_type, "a task_id names one task; submit several without it")
        tasks = [self.prepare(call) for call in calls]
        queues = [self._layout.queue(call.options.queue) for call in calls]
        partitions = [self._partition(topics, call.options.key) for topics, call in zip(queues, calls, strict=True)]
        sent = Sent(tasks, [topics.tasks for topics in queues])
        if not tasks:
            sent.done.set_result(None)
        for call, task, topics, partition in zip(calls, tasks, queues, partitions, strict=True):
            key = None if call.options.key is None else call.options.key.encode()
            message = (
                delayed(task, key, {}, topics)
                if task.not_before_ms
                else Message(topics.tasks, codec.encode(task), key, partition)
            )
            self._send(sent, task.task_id, message)
        return sent

    def _send(self, sent: Sent, task_id: str, message: Message) -> None:
        self._producer.produce(message, lambda report: sent.report(task_id, report))

    def _partition(self, topics: QueueTopics, key: str | None) -> int | None:
        """The next partition in turn; with a key the key decides."""
        count, fresh_until = self._turns.get(topics.tasks, (0, 0.0))
        if time.monotonic() > fresh_until:
            found = self._broker.partitions()
            whole = topics.tasks in found and topics.delayed in found
            count = found[topics.tasks] if whole else ensure_queue(self._broker, topics, DEFAULT_PARTITIONS)
            self._turns[topics.tasks] = count, time.monotonic() + PARTITIONS_FRESH_S
        return None if key is not None else next(self._counter) % count

    def record(self, sent: Sent) -> None:
        """Write the QUEUED records. A ledger that is down delays the view and fails nothing."""
        if time.monotonic() - sent.at_mono > LATE_QUEUED_S:
            return
        new = [
            NewTask(
                task.task_id,
                task.task_type,
                topic,
                # What waits lies in no partition of Q yet.
                -1 if task.not_before_ms else sent.reports[task.task_id].partition,
                -1 if task.not_before_ms else sent.reports[task.task_id].offset,
                task.queued_at_ms,
                task.task_tries,
                task.not_before_ms,
            )
            for task, topic in zip(sent.tasks, sent.topics, strict=True)
        ]
        try:
            self._together.write(new)
        except LedgerUnavailable as error:
            log.warning("%d task(s) are published; their QUEUED record is late: %s", len(new), error)
            self.unrecorded.update(sent.task_ids)

    def close(self) -> None:
        self._producer.close(REPORT_S)
