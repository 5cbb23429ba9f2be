"""Calls to records in Kafka, and from there to QUEUED or SCHEDULED records in the ledger.

One invariant: what is wrong with any call is found before the first is sent, and a call counts as published only with
Kafka's report. Redis is not on that road: when it is down the view is late. When the process dies, what was reported
is in Kafka.

Calls of many threads go together, and one of the threads sends, waits and writes the QUEUED records for all of them.
"""

import itertools
import logging
import math
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import msgspec

from yadtq import codec
from yadtq.broker import Broker, Flight, Message, Report, ensure_topic
from yadtq.delayed import delayed
from yadtq.envelope import Envelope
from yadtq.errors import BrokerUnavailable, InvalidOptions, LedgerUnavailable, SubmitError, SubmitUnknown, TooLarge
from yadtq.layout import (
    DEAD_CONFIG,
    DEFAULT_PARTITIONS,
    DELAYED_CONFIG,
    OUTCOMES_CONFIG,
    TASKS_CONFIG,
    Layout,
    QueueTopics,
)
from yadtq.ledger import Ledger, NewTask
from yadtq.task import Call
from yadtq.together import Together
from yadtq.when import not_before_ms

log = logging.getLogger("yadtq")

REPORT_S = 30.0  # longer than the client tries, so that its own verdict comes first
PARTITIONS_FRESH_S = 30.0
PATIENCE_S = 0.05  # a group with a partition that does not answer holds up the next one no longer
LATE_QUEUED_S = 60.0  # a QUEUED write later than this could meet a record that came and expired
WARN_AGAIN_S = 5.0  # between two warnings that a store does not answer: not one for each submit
UNREACHED_S = 10.0  # how long a submit waits for a Kafka that it cannot ask for the queue
UNREACHED_AGAIN_S = 0.5
WORTH = 250  # tasks of a large group that are written while the others are on their way: Kafka and Redis side by side


def ensure_queue(broker: Broker, topics: QueueTopics, partitions: int) -> int:
    """Create the topics of a queue where they are missing; return how many partitions the first has."""
    # The outcomes topic is what makes a queue known, so it comes last: whoever sees it finds the others.
    count = ensure_topic(broker, topics.tasks, partitions, TASKS_CONFIG)
    ensure_topic(broker, topics.dead, 1, DEAD_CONFIG)
    ensure_topic(broker, topics.delayed, count, DELAYED_CONFIG)
    ensure_topic(broker, topics.outcomes, count, OUTCOMES_CONFIG)
    return count


class Sent:
    """Calls that were given to the publisher, and what became of them."""

    def __init__(self, tasks: list[Envelope], topics: list[str], messages: list[Message]) -> None:
        self.tasks = tasks
        self.topics = topics
        self.messages = messages
        self._flight: Flight | None = None  # it has the messages of others too
        self._first = 0  # the place of ours in it
        self._over = False
        self._waiting = threading.Lock()
        self._waiting.acquire()

    @property
    def task_ids(self) -> list[str]:
        return [task.task_id for task in self.tasks]

    @property
    def reports(self) -> list[Report]:
        """What Kafka said of each; where it said nothing in time, that it may or may not have it."""
        silent = Report(f"none within {REPORT_S:g} s")
        if self._flight is None:
            return [silent] * len(self.tasks)
        return [report or silent for report in self._flight.reports[self._first : self._first + len(self.tasks)]]

    @property
    def places(self) -> range:
        """Where ours are among the messages of the flight."""
        return range(self._first, self._first + len(self.tasks))

    def travels(self, flight: Flight, first: int) -> None:
        self._flight, self._first = flight, first

    def wait(self) -> None:
        self._waiting.acquire()

    def over(self) -> None:
        if not self._over:
            self._over = True
            self._waiting.release()

    def check(self) -> None:
        """Raise what the worst of the reports says."""
        if not self.tasks or (self._flight is not None and self._flight.landed and not self._flight.failed):
            return
        failed = [(task.task_id, at) for task, at in zip(self.tasks, self.reports, strict=True) if at.error]
        unknown = [(task_id, report.error or "") for task_id, report in failed if not report.refused]
        if unknown:
            raise SubmitUnknown(*unknown[0], self.task_ids, [task_id for task_id, _ in failed])
        for task_id, report in failed:
            published = len(self.tasks) - len(failed)
            rest = f"; {published} of the {len(self.tasks)} calls were published" if published else ""
            raise SubmitError(f"Kafka refused task {task_id!r}: {report.error}{rest}")


class Awaited(Sent):
    """The same for a coroutine: no thread waits."""

    def __init__(self, tasks: list[Envelope], topics: list[str], messages: list[Message]) -> None:
        super().__init__(tasks, topics, messages)
        self.done: Future[None] = Future()

    def over(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Group:
    """What several callers have sent together."""

    def __init__(self, members: Sequence[Sent], flight: Flight) -> None:
        self.members = members
        self.flight = flight
        self.tasks: list[Envelope] = []
        self.topics: list[str] = []
        self.at_mono = time.monotonic()
        self.fresh: list[int] = []  # places of those that have their report and no QUEUED record
        self.unrecorded = False
        self._recorded: set[int] = set()  # while some are late: the places of those that are done with
        for sent in members:
            sent.travels(flight, len(self.tasks))
            self.tasks += sent.tasks
            self.topics += sent.topics

    def part(self) -> None:
        """Let those go that wait for nothing more."""
        if self.flight.unseen:
            self._recorded.update(self.fresh)
            whole = [sent for sent in self.members if self._recorded.issuperset(sent.places)]
        else:
            whole = list(self.members)
        for sent in whole:
            sent.over()

    def new(self) -> list[NewTask]:
        """What the ledger is told of the fresh ones."""
        found = []
        for at in self.fresh:
            task, report = self.tasks[at], self.flight.reports[at]
            if report is None or report.error:
                continue
            # What waits lies in no partition of Q yet.
            partition, offset = (-1, -1) if task.not_before_ms else (report.partition, report.offset)
            found.append(
                NewTask(
                    task.task_id, task.task_type, self.topics[at], partition, offset, task.queued_at_ms,
                    task.task_tries, task.not_before_ms,
                )
            )  # fmt: skip
        return found


class Publisher:
    """Calls to records in Kafka, then to QUEUED records in the ledger. Callable from any thread."""

    def __init__(
        self, broker: Broker, ledger: Ledger, layout: Layout, limit_bytes: int, first_turn: int | None = None
    ) -> None:
        self.unrecorded: set[str] = set()  # Kafka has them, their QUEUED record could not be written
        self._broker = broker
        self._ledger = ledger
        self._layout = layout
        self._limit_bytes = limit_bytes
        self._sender = broker.sender()
        self._together = Together(self._send, self._finish)
        self._warned_mono = -math.inf  # when it was last told that a store does not answer
        self._queues: dict[str, QueueTopics] = {}
        self._turns: dict[str, tuple[int, float]] = {}  # partitions of a topic, and until when that is fresh
        # Many short-lived clients must not all begin at partition 0.
        self._counter = itertools.count(random.randrange(1 << 16) if first_turn is None else first_turn)

    def prepare(self, call: Call) -> Envelope:
        """Make the envelope of a call. Nothing is sent.

        Raises:
            InvalidOptions: The id cannot be used, the start is too far away, or a worker would not take the envelope.
            TooLarge: Over the size limit.
        """
        return self._prepare(call)[0]

    def _prepare(self, call: Call) -> tuple[Envelope, bytes]:
        options, now_ms = call.options, time.time_ns() // 1_000_000
        try:
            start_ms = not_before_ms(options.delay_s, options.at_ms, now_ms)
        except ValueError as error:
            raise InvalidOptions(call.task_type, str(error)) from error
        envelope = Envelope(
            task_id=os.urandom(16).hex() if options.task_id is None else options.task_id,
            task_type=call.task_type,
            task_args=msgspec.Raw(call.args),
            task_kwargs=msgspec.Raw(call.kwargs),
            task_tries=call.tries,
            queued_at_ms=now_ms,
            max_attempts=options.max_attempts,
            not_before_ms=start_ms,
        )
        problem = codec.problem_of(envelope)
        if problem:
            raise InvalidOptions(call.task_type, problem)
        data = codec.encode(envelope)
        if len(data) > self._limit_bytes:
            raise TooLarge(len(data), self._limit_bytes)
        return envelope, data

    def publish(self, calls: Sequence[Call]) -> Sent:
        """Send calls and wait for Kafka's reports and the QUEUED records.

        What is wrong with any of them is raised before the first is sent; what Kafka says is for `Sent.check`.
        """
        sent = Sent(*self._load(calls))
        if calls:
            self._together.do(sent)
        return sent

    def begin(self, calls: Sequence[Call]) -> Awaited:
        """Send calls like `publish`, and wait for nothing."""
        sent = Awaited(*self._load(calls))
        if calls:
            self._together.start(sent)
        else:
            sent.over()
        return sent

    def _load(self, calls: Sequence[Call]) -> tuple[list[Envelope], list[str], list[Message]]:
        """The calls as envelopes, the queues they go to, and the messages that carry them."""
        chosen = [call.options.task_id for call in calls if call.options.task_id is not None]
        if len(chosen) != len(set(chosen)):
            raise InvalidOptions(calls[0].task_type, "a task_id names one task; submit several without it")
        prepared = [self._prepare(call) for call in calls]
        queues = [self._queue(call.options.queue) for call in calls]
        messages = []
        for call, (task, data), topics in zip(calls, prepared, queues, strict=True):
            key, partition = call.options.key, self._partition(topics, call.options.key)
            record_key = None if key is None else key.encode()
            messages.append(
                delayed(task, record_key, {}, topics)
                if task.not_before_ms
                else Message(topics.tasks, data, record_key, partition)
            )
        return [task for task, _ in prepared], [topics.tasks for topics in queues], messages

    def _queue(self, name: str) -> QueueTopics:
        topics = self._queues.get(name)
        if topics is None:
            topics = self._queues[name] = self._layout.queue(name)
        return topics

    def _partition(self, topics: QueueTopics, key: str | None) -> int | None:
        """The next partition in turn; with a key the key decides."""
        count, fresh_until = self._turns.get(topics.tasks, (0, 0.0))
        if time.monotonic() > fresh_until:
            count = self._count(topics)
            self._turns[topics.tasks] = count, time.monotonic() + PARTITIONS_FRESH_S
        return None if key is not None else next(self._counter) % count

    def _count(self, topics: QueueTopics) -> int:
        """How many partitions a queue has. A Kafka that does not answer may be starting, so it is asked for a while."""
        until_mono = time.monotonic() + UNREACHED_S
        while True:
            try:
                found = self._broker.partitions()
                whole = topics.tasks in found and topics.delayed in found
                return found[topics.tasks] if whole else ensure_queue(self._broker, topics, DEFAULT_PARTITIONS)
            except BrokerUnavailable as error:
                if time.monotonic() >= until_mono:
                    raise
                self._warn("nothing is published yet, trying again: %s", error)
                time.sleep(UNREACHED_AGAIN_S)

    def _warn(self, text: str, error: Exception) -> None:
        now = time.monotonic()
        if now - self._warned_mono >= WARN_AGAIN_S:
            self._warned_mono = now
            log.warning(text, error)

    def _send(self, members: list[Sent]) -> Group:
        """A group's turn: until Kafka has it, or enough of it for a first write."""
        group = Group(members, self._sender.send([message for sent in members for message in sent.messages]))
        group.fresh = self._sender.wait(group.flight, PATIENCE_S, WORTH)
        return group

    def _finish(self, group: Group) -> None:
        """Write the QUEUED records of what has arrived, and wait for the rest; whose is not late does not wait."""
        self._record(group)
        group.part()
        if group.flight.unseen and len(group.members) > 1:
            threading.Thread(target=self._wait_on, args=(group,), name="yadtq-late", daemon=True).start()
        else:
            self._wait_on(group)

    def _wait_on(self, group: Group) -> None:
        try:
            enough = WORTH if len(group.members) == 1 else 1
            while group.flight.unseen:  # also where all have landed by now: during the write
                left_s = max(group.at_mono + REPORT_S - time.monotonic(), 0)
                group.fresh = self._sender.wait(group.flight, left_s, enough)
                self._record(group)
                group.part()
                if not left_s:
                    return
        finally:
            for sent in group.members:
                sent.over()

    def _record(self, group: Group) -> None:
        """Write QUEUED records. A ledger that is down delays the view and fails nothing."""
        if time.monotonic() - group.at_mono > LATE_QUEUED_S:
            return
        new = group.new()
        if not new:
            return
        try:
            if not group.unrecorded:
                self._ledger.queued(new)
                return
        except LedgerUnavailable as error:
            self._warn("task(s) are published; their QUEUED record is late: %s", error)
        group.unrecorded = True  # so the rest is not tried: each try may take seconds
        self.unrecorded.update([task.task_id for task in new])

    def close(self) -> None:
        self._sender.close(REPORT_S)
