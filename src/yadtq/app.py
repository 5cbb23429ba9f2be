"""The front door: an app has tasks, publishes calls of them and looks up their ends.

One invariant: `publish` returns only what Kafka has acknowledged; everything else raises. Redis is not on that path:
when it is down the view is late, the submit is not. When the process dies, what was acknowledged is in Kafka.

The clients of Kafka and Redis are loaded at the first use, so that a child process that only runs tasks needs neither.
"""

import asyncio
import itertools
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ParamSpec, Protocol, TypeVar, overload

import msgspec

import yadtq.broker
import yadtq.ledger
from yadtq import codec
from yadtq.broker import Broker, Message, Producer, Report, ensure_topic
from yadtq.envelope import Envelope
from yadtq.errors import InvalidArguments, LedgerUnavailable, NotFound, SubmitError, SubmitUnknown, TooLarge
from yadtq.handle import Handle, Settled
from yadtq.layout import DEAD_CONFIG, OUTCOMES_CONFIG, TASKS_CONFIG, Layout, QueueTopics
from yadtq.ledger import Ledger, NewTask
from yadtq.settings import Settings, load
from yadtq.states import State
from yadtq.task import Call, Options, Registry, Task

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger("yadtq")

DEFAULT_PARTITIONS = 8
REPORT_S = 30.0  # longer than the client tries, so that its own verdict comes first
PARTITIONS_FRESH_S = 30.0
LATE_QUEUED_S = 60.0  # a QUEUED write later than this could meet a record that came and expired


class TaskDecorator(Protocol):
    """What `@app.task(...)` returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class App:
    """A set of tasks and the queue they are published to.

    Args:
        name: The queue of tasks that name none.
        kafka: `host:port` or a `kafka...://` URL; found by the settings' order where left out.
        redis: `host:port` or a `redis...://` URL; likewise.
        settings: Everything at once, instead of the two.
        broker: A broker of your own, such as the memory broker.
        ledger: A ledger of your own, such as the memory ledger.
        registry: The tasks of another app, to be served with other settings.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        kafka: str | None = None,
        redis: str | None = None,
        settings: Settings | None = None,
        broker: Broker | None = None,
        ledger: Ledger | None = None,
        registry: Registry | None = None,
    ) -> None:
        Layout().queue(name)
        self.name = name
        self.registry = registry or Registry()
        self._addresses = kafka, redis
        self._own_settings = settings
        self._own_broker, self._own_ledger = broker, ledger
        self._lock = threading.RLock()

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once at the first use."""
        kafka, redis = self._addresses
        return self._own_settings or load(kafka=kafka, redis=redis)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.settings.prefix)

    @cached_property
    def broker(self) -> Broker:
        return self._own_broker or yadtq.broker.connect(self.settings)

    @cached_property
    def ledger(self) -> Ledger:
        return self._own_ledger or yadtq.ledger.connect(self.settings)

    @cached_property
    def _publisher(self) -> "Publisher":
        return Publisher(self.broker, self.ledger, self.layout, self.settings.max_task_bytes)

    @cached_property
    def _waiter(self) -> "Waiter":
        return Waiter(self.ledger, self._publisher.unrecorded)

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, R]: ...

    @overload
    def task(self, function: Callable[P, R]) -> Task[P, R]: ...

    @overload
    def task(self, *, name: str | None = None, queue: str | None = None, max_attempts: int = 3) -> TaskDecorator: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        queue: str | None = None,
        max_attempts: int = 3,
    ) -> Any:
        """Register a function as a task: `@app.task`, or `@app.task(name=..., queue=..., max_attempts=...)`.

        Args:
            name: What it is called on Kafka; the function's name where left out.
            queue: Where it is published; the app's name where left out.
            max_attempts: How many failures of the code end it; at least 1.

        Raises:
            InvalidTask: The name is taken, or the annotations cannot be used.
        """

        def register(function: Callable[..., Any]) -> Task[..., Any]:
            options = Options(queue=queue or self.name, max_attempts=max_attempts)
            made: Task[..., Any] = Task(function, name or function.__name__, options, self)
            self.registry.add(made)
            return made

        return register if function is None else register(function)

    def handle(self, task_id: str) -> Handle[Any]:
        """Return a handle on a task that was submitted anywhere; unknown ids raise NotFound when it is used."""
        return Handle(task_id, self, msgspec.json.decode)

    def publish(self, calls: Sequence[Call], read: Callable[[bytes], R]) -> list[Handle[R]]:
        """Publish calls and wait for Kafka's reports. `Task.submit` is the road here."""
        sent = self._ready().send(calls)
        sent.wait(REPORT_S)
        self._publisher.record(sent)
        return [Handle(task_id, self, read) for task_id in sent.task_ids]

    async def publish_async(self, calls: Sequence[Call], read: Callable[[bytes], R]) -> list[Handle[R]]:
        """Publish like `publish`; no call in here blocks the loop, and no thread is held while Kafka works."""
        sent = await asyncio.to_thread(lambda: self._ready().send(calls))
        await asyncio.wait([asyncio.wrap_future(sent.done)], timeout=REPORT_S)
        sent.wait(0)
        await asyncio.to_thread(self._publisher.record, sent)
        return [Handle(task_id, self, read) for task_id in sent.task_ids]

    def _ready(self) -> "Publisher":
        with self._lock:  # two threads at the first submit must not make two producers
            return self._publisher

    def status(self, task_id: str) -> State:
        """Return the state of a task. Raises NotFound, LedgerUnavailable."""
        record = self.ledger.records([task_id])[0]
        if record is None and task_id not in self._ready().unrecorded:
            raise NotFound(task_id)
        return record.shown if record is not None else State.QUEUED

    def settled(self, task_id: str) -> "Future[Settled]":
        """Return a future of the end of a task; NotFound where no task has this id."""
        self._ready()
        with self._lock:
            return self._waiter.wait_for(task_id)

    def ensure_queue(self, name: str, partitions: int = DEFAULT_PARTITIONS) -> int:
        """Create the topics of a queue where they are missing; return the number of partitions it really has."""
        return ensure_queue(self.broker, self.layout.queue(name), partitions)

    def close(self) -> None:
        """Close what was opened. Submits that returned are safe already."""
        if "_waiter" in self.__dict__:
            self._waiter.close()
        if "_publisher" in self.__dict__:
            self._publisher.close()
        for port in ("broker", "ledger"):
            if port in self.__dict__:
                getattr(self, port).close()


def ensure_queue(broker: Broker, topics: QueueTopics, partitions: int) -> int:
    """Create the three topics of a queue where they are missing; return how many partitions the first has."""
    # The outcomes topic is what makes a queue known, so it comes last: whoever sees it finds the others.
    count = ensure_topic(broker, topics.tasks, partitions, TASKS_CONFIG)
    ensure_topic(broker, topics.dead, 1, DEAD_CONFIG)
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
        try:
            self.done.result(timeout_s)
        except TimeoutError:
            missing = next(task_id for task_id in self.task_ids if task_id not in self.reports)
            raise SubmitUnknown(missing, f"none within {timeout_s or REPORT_S:g} s") from None
        for task_id, report in self.reports.items():
            if report.refused:
                raise SubmitError(f"Kafka refused task {task_id!r}: {report.error}. Nothing of it was published")
            if report.error:
                raise SubmitUnknown(task_id, report.error)


class Publisher:
    """Calls to records in Kafka, then to QUEUED records in the ledger."""

    def __init__(
        self, broker: Broker, ledger: Ledger, layout: Layout, limit_bytes: int, first_turn: int | None = None
    ) -> None:
        self.unrecorded: set[str] = set()  # Kafka has them, their QUEUED record could not be written
        self._broker = broker
        self._ledger = ledger
        self._layout = layout
        self._limit_bytes = limit_bytes
        self._producer: Producer = broker.producer()
        self._turns: dict[str, tuple[int, float]] = {}  # partitions of a topic, and until when that is fresh
        # Many short-lived clients must not all begin at partition 0.
        self._counter = itertools.count(random.randrange(1 << 16) if first_turn is None else first_turn)

    def prepare(self, call: Call) -> Envelope:
        """Make the envelope of a call. Nothing is sent.

        Raises:
            InvalidArguments: The id cannot be used.
            TooLarge: Over the size limit.
        """
        task_id = call.options.task_id or uuid.uuid4().hex
        problem = codec.id_problem(task_id)
        if problem:
            raise InvalidArguments(call.task_type, problem)
        envelope = Envelope(
            task_id=task_id,
            task_type=call.task_type,
            task_args=msgspec.Raw(call.args),
            task_kwargs=msgspec.Raw(call.kwargs),
            task_tries=call.tries,
            queued_at_ms=time.time_ns() // 1_000_000,
            max_attempts=call.options.max_attempts,
        )
        size_bytes = len(codec.encode(envelope))
        if size_bytes > self._limit_bytes:
            raise TooLarge(size_bytes, self._limit_bytes)
        return envelope

    def send(self, calls: Sequence[Call]) -> Sent:
        """Give calls to the producer. What is wrong with any of them is found before the first is sent."""
        tasks = [self.prepare(call) for call in calls]
        queues = [self._layout.queue(call.options.queue) for call in calls]
        partitions = [self._partition(topics, call.options.key) for topics, call in zip(queues, calls, strict=True)]
        sent = Sent(tasks, [topics.tasks for topics in queues])
        if not tasks:
            sent.done.set_result(None)
        for call, task, topic, partition in zip(calls, tasks, sent.topics, partitions, strict=True):
            key = None if call.options.key is None else call.options.key.encode()
            self._send(sent, task.task_id, Message(topic, codec.encode(task), key, partition))
        return sent

    def _send(self, sent: Sent, task_id: str, message: Message) -> None:
        self._producer.produce(message, lambda report: sent.report(task_id, report))

    def _partition(self, topics: QueueTopics, key: str | None) -> int | None:
        """The next partition in turn; with a key the key decides."""
        count, fresh_until = self._turns.get(topics.tasks, (0, 0.0))
        if time.monotonic() > fresh_until:
            count = self._broker.partitions().get(topics.tasks) or ensure_queue(
                self._broker, topics, DEFAULT_PARTITIONS
            )
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
                sent.reports[task.task_id].partition,
                sent.reports[task.task_id].offset,
                task.queued_at_ms,
                task.task_tries,
            )
            for task, topic in zip(sent.tasks, sent.topics, strict=True)
        ]
        try:
            self._ledger.queued(new)
        except LedgerUnavailable as error:
            log.warning("%d task(s) are published; their QUEUED record is late: %s", len(new), error)
            self.unrecorded.update(sent.task_ids)

    def close(self) -> None:
        self._producer.close(REPORT_S)


class Waiter:
    """One thread that asks the ledger for everybody who waits, many tasks a round trip."""

    FASTEST_S = 0.002
    SLOWEST_S = 0.1

    def __init__(self, ledger: Ledger, unrecorded: set[str]) -> None:
        self._ledger = ledger
        self._unrecorded = unrecorded
        self._waiting: dict[str, list[Future[Settled]]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="yadtq-waiter", daemon=True)
        self._thread.start()

    def wait_for(self, task_id: str) -> "Future[Settled]":
        future: Future[Settled] = Future()
        with self._lock:
            self._waiting.setdefault(task_id, []).append(future)
        self._wake.set()
        return future

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = self.FASTEST_S
        while not self._closed:
            if self._wake.wait(pause_s if self._waiting else None):
                self._wake.clear()
                pause_s = self.FASTEST_S
            try:
                self._look()
            except LedgerUnavailable as error:
                log.warning("still waiting for results: %s", error)
                pause_s = 1.0
            pause_s = min(pause_s * 1.5, max(self.SLOWEST_S, pause_s))

    def _look(self) -> None:
        with self._lock:
            self._waiting = {
                task_id: [future for future in futures if not future.cancelled()]
                for task_id, futures in self._waiting.items()
                if not all(future.cancelled() for future in futures)
            }
            asked = list(self._waiting)
        for task_id, record in zip(asked, self._ledger.records(asked), strict=True):
            if record is None and task_id not in self._unrecorded:
                self._finish(task_id, NotFound(task_id))
            elif record is not None and record.final:
                self._unrecorded.discard(task_id)
                end = Settled(record.status, record.attempts, record.result, record.error_log)
                self._finish(task_id, end)

    def _finish(self, task_id: str, end: Settled | Exception) -> None:
        with self._lock:
            futures = self._waiting.pop(task_id, [])
        for future in futures:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(end, Exception):
                future.set_exception(end)
            else:
                future.set_result(end)
