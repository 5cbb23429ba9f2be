"""The production loop on memory ports, turn by turn: time is turned by hand, and the runner obeys the test."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from opening import open_ledger
from waiting import ManualClock
from yadtq.attempt import Attempt, Ending, Lease, Outcome, Place, Recalled, Started
from yadtq.broker import Message, OnReport, OnReports, Record, Report, TopicPartition
from yadtq.broker.memory import MemoryBroker, MemoryConsumer
from yadtq.codec import OutcomeRecord, decode_outcome, encode
from yadtq.delayed import delayed
from yadtq.engine import Engine
from yadtq.envelope import Envelope
from yadtq.handle import Handle
from yadtq.heartbeat import Heartbeat, Identity
from yadtq.inbox import Arrived, Assigned, Drain, Gone, Reborn
from yadtq.intake import Intake
from yadtq.layout import HEADER_MARKER, Layout
from yadtq.ledger import Errand, TaskRecord
from yadtq.ledger.memory import MemoryLedger
from yadtq.publisher import ensure_queue
from yadtq.rebuild import Rebuilder
from yadtq.runners import Sink
from yadtq.scheduler import Scheduler
from yadtq.service import Clock
from yadtq.settings import Order, WorkerSettings
from yadtq.states import FINAL
from yadtq.task import FREE, Call, Limits, Options, Registry, Task
from yadtq.telemetry import Event, Telemetry
from yadtq.validity import Validity

QUEUE = "q"
GROUP = "workers"
DELAYED_GROUP = Layout().delayed_group(GROUP)
T = TypeVar("T")


class Nowhere:
    """An outlet for tasks that are only registered."""

    def publish(self, calls: list[Call], read: object) -> list[Handle[object]]:
        raise AssertionError("nothing is submitted here")

    publish_async = publish


def registry_of(*names: str) -> Registry:
    """Tasks of these names; those with a `!` run alone."""
    registry = Registry()
    for name in names:
        limits = Limits(isolation="process") if name.endswith("!") else FREE
        registry.add(Task(lambda *args: args, name, Options(queue=QUEUE), Nowhere(), limits))  # type: ignore[arg-type]
    return registry


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

    def begin(self) -> None:
        """Start everything that waits and may start."""
        for number, attempt in self.waiting.items():
            if not self.allows(attempt):
                self._sink([Recalled(number)])
                continue
            self.on_start(attempt)
            self.running[number] = attempt
            self.history.append((attempt.task_id, attempt.attempt))
            self._sink([Started(number)])
        self.waiting = {}

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


class Player:
    """One worker, made of the production parts, without threads."""

    def __init__(self, stage: "Stage", name: str, slots: int, order: Order, solo_slots: int) -> None:
        settings = WorkerSettings(name, group=GROUP, order=order)
        self.stage = stage
        clock, ledger, telemetry = stage.clock, self.make_ledger(), Telemetry()
        self.events: list[Event] = []
        self.rebuilds = True  # reads outcomes in as soon as it is asked to
        telemetry.listen(self.events.append)
        self.producer = self.make_producer()
        self.woken = False
        least_ms = int(settings.lease_s * 1000)
        self.rebuilder = self.make_rebuilder(name, least_ms, telemetry)
        self.identity = Identity(name, settings.lease_s, clock)

        def make_runner(sink: Sink) -> ObedientRunner:
            self.runner = self.make_runner(sink, slots, solo_slots)
            self.runner.clock = clock
            return self.runner

        self.engine = Engine(
            stage.registry,
            ledger,
            self.producer,
            stage.topics,
            self.identity,
            telemetry,
            clock,
            make_runner=make_runner,  # type: ignore[arg-type]
            nudge=lambda: None,
            recover=self._woken,
            order=order,
            chance=lambda: 1.0,
        )
        put = self.engine.inbox.put
        self.intake = Intake(
            stage.broker,
            stage.topics.tasks,
            GROUP,
            settings,
            telemetry,
            clock,
            on_assigned=lambda assignment: put(Assigned(assignment)),
            on_gone=lambda assignment: put(Gone(assignment)),
            on_records=lambda records: put(Arrived(records)),
        )
        self.heartbeat = Heartbeat(
            ledger,
            self.identity,
            settings,
            stage.topics.tasks,
            telemetry,
            clock,
            partitions=lambda: [where.partition for where in self.intake.assignments],
            moving=(self.intake, self.engine),
            on_lease=self.runner.renew,
            on_reborn=lambda: put(Reborn()),
        )
        self.consumer: MemoryConsumer = stage.broker.consumer(stage.topics.tasks, GROUP, self.intake, 10_000)
        self.scheduler = Scheduler(
            stage.broker,
            self.producer,
            ledger,
            stage.topics,
            DELAYED_GROUP,
            settings,
            telemetry,
            clock,
            identity=self.identity,
            recover=self._woken,
        )
        self.delayed_consumer: MemoryConsumer | None = None
        self.heartbeat.turn()

    def _woken(self, errand: Errand) -> None:
        self.woken = True
        self.rebuilder.wake(errand)

    def schedule(self, times: int = 1) -> None:
        """Turn the scheduler, which joins its group at the first turn; no time passes."""
        if self.delayed_consumer is None:
            topic = self.stage.topics.delayed
            self.delayed_consumer = self.stage.broker.consumer(topic, DELAYED_GROUP, self.scheduler, 10_000)
        for _ in range(times):
            self.scheduler.turn(self.delayed_consumer)
            self._rebuild()

    # What a test of its own puts between the worker and its ports.

    def make_ledger(self) -> MemoryLedger:
        return self.stage.ledger

    def make_producer(self) -> WatchedProducer:
        return WatchedProducer(self.stage.broker)

    def make_rebuilder(self, name: str, least_ms: int, telemetry: Telemetry) -> Rebuilder:
        broker = self.stage.broker
        topics = self.stage.topics
        return Rebuilder(broker, self.make_ledger(), broker.producer(), topics, name, least_ms, telemetry)

    def make_runner(self, sink: Sink, slots: int, solo_slots: int) -> ObedientRunner:
        return ObedientRunner(sink, slots, solo_slots)

    def turn(self, times: int = 1) -> None:
        """Poll and step; no time passes."""
        for _ in range(times):
            self.intake.turn(self.consumer)
            self.engine.step(0.0)
            self._rebuild()

    def _rebuild(self) -> None:
        if self.woken and self.rebuilds:
            self.woken = False
            self.rebuilder.turn()

    def work(self, times: int = 20, ending: Ending = Ending.RETURNED) -> None:
        """Turn, and let everything that is given run to its end."""
        for _ in range(times):
            self.turn()
            self.runner.begin()
            self.runner.end(ending)
        self.turn(3)

    def kinds(self, task_id: str = "") -> list[str]:
        return [event.kind for event in self.events if not task_id or event.task_id == task_id]

    def drain(self) -> None:
        self.engine.inbox.put(Drain())
        self.turn(3)

    def crash(self) -> None:
        """The process is gone: nothing of it ever moves again, and the group finds out."""
        self.stage.broker.members[self.stage.topics.tasks, GROUP].remove(self.consumer)
        self.consumer.positions.clear()
        if self.delayed_consumer is not None:
            self.stage.broker.members[self.stage.topics.delayed, DELAYED_GROUP].remove(self.delayed_consumer)
            self.delayed_consumer.positions.clear()


class Stage:
    """A broker, a ledger, a clock, and the workers on them."""

    def __init__(self, partitions: int = 1, tasks: tuple[str, ...] = ("add",), *, opened: bool = True) -> None:
        self.fired = 0  # of what lies in `Q.delayed`, by a test that brings it to the queue
        self.clock = ManualClock()
        self.broker = MemoryBroker()
        self.ledger = MemoryLedger(self.clock)
        if opened:
            open_ledger(self.ledger, Layout().queue(QUEUE).tasks)
        self.registry = registry_of(*tasks)
        self.topics = Layout().queue(QUEUE)
        ensure_queue(self.broker, self.topics, partitions)

    def player(self, name: str = "w1", slots: int = 16, order: Order = "partition", solo_slots: int = 0) -> Player:
        return Player(self, name, slots, order, solo_slots)

    def publish(
        self, *task_ids: str, task_type: str = "add", partition: int = 0, key: bytes | None = None, **fields: object
    ) -> None:
        for task_id in task_ids:
            envelope = Envelope(task_id=task_id, task_type=task_type, task_args=msgspec.Raw(b"[1]"), **fields)  # type: ignore[arg-type]
            self.publish_bytes(encode(envelope), partition, key)

    def delay(
        self, *task_ids: str, by_ms: int, partition: int = 0, key: bytes | None = None, generation: int = 0
    ) -> None:
        """Put tasks into the delayed topic, as a submitter does whose clock is the ledger's."""
        for task_id in task_ids:
            due_ms = self.clock.now_ms() + by_ms
            envelope = Envelope(
                task_id=task_id,
                task_type="add",
                task_args=msgspec.Raw(b"[1]"),
                queued_at_ms=self.clock.now_ms(),
                generation=generation,
                not_before_ms=due_ms,
            )
            message = delayed(envelope, key, {"trace": b"\xff\x00"}, self.topics)
            report = self.broker.append(msgspec.structs.replace(message, partition=partition))
            assert report.error is None

    def publish_bytes(self, data: bytes, partition: int = 0, key: bytes | None = None) -> None:
        report = self.broker.append(Message(self.topics.tasks, data, key, partition))
        assert report.error is None

    def lease_over(self, *survivors: Player) -> None:
        """Let every lease run out but those of the survivors, who go on polling and beating."""
        for _ in range(4):
            self.clock.turn(3_000)
            for survivor in survivors:
                survivor.turn()
                survivor.heartbeat.turn()

    def barrier_over(self, *players: Player) -> None:
        """Let the ledger that waits be opened, while these poll, beat and register."""
        for _ in range(60):
            self.clock.turn(250)
            for player in players:
                player.heartbeat.turn()
                player.turn()

    def record(self, task_id: str) -> TaskRecord:
        record = self.ledger.records([task_id])[0]
        assert record is not None
        return record

    def lying_in(self, topic: str) -> list[Record]:
        return [record for log in self.broker.logs[topic] for record in log]

    def outcomes(self, task_id: str) -> list[OutcomeRecord]:
        """Every outcome of a task that lies in Kafka, also of those that do not count."""
        lying = self.lying_in(self.topics.outcomes)
        found = (decode_outcome(record.value) for record in lying if HEADER_MARKER not in record.headers)
        return [outcome for outcome in found if outcome.task_id == task_id]

    def ends(self, task_id: str) -> list[OutcomeRecord]:
        """Those that are final and count, as every reader sees it."""
        validity = Validity()
        found = [validity.read(record) for record in self.lying_in(self.topics.outcomes)]
        return [outcome for outcome in found if outcome and outcome.task_id == task_id and outcome.state in FINAL]

    def committed(self, partition: int = 0) -> int:
        found = self.broker.committed(self.topics.tasks, GROUP).get(TopicPartition(self.topics.tasks, partition))
        return found.offset if found else 0
