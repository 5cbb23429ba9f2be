"""The production loop on memory ports, turn by turn: time is turned by hand, and the runner obeys the test."""

from collections.abc import Callable

import msgspec
from obedient import ObedientRunner, WatchedProducer

from opening import open_ledger
from waiting import ManualClock
from yadtq.attempt import Ending
from yadtq.broker import Message, Record, TopicPartition
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
from yadtq.settings import Order, WorkerSettings
from yadtq.states import FINAL
from yadtq.task import FREE, Call, Limits, Options, Registry, Task
from yadtq.telemetry import Event, Telemetry
from yadtq.validity import Validity

QUEUE = "q"
GROUP = "workers"
DELAYED_GROUP = Layout().delayed_group(GROUP)


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


class Player:
    """One worker, made of the production parts, without threads."""

    def __init__(self, stage: "Stage", name: str, slots: int, order: Order, solo_slots: int) -> None:
        self.stage = stage
        self._settings = WorkerSettings(name, group=GROUP, order=order)
        self._ledger, self._telemetry = self.make_ledger(), Telemetry()
        self.events: list[Event] = []
        self.rebuilds = True  # reads outcomes in as soon as it is asked to
        self._telemetry.listen(self.events.append)
        self.producer = self.make_producer()
        self.woken = False
        self.rebuilder = self.make_rebuilder(name, int(self._settings.lease_s * 1000), self._telemetry)
        self.identity = Identity(name, self._settings.lease_s, stage.clock)

        def make_runner(sink: Sink) -> ObedientRunner:
            self.runner = self.make_runner(sink, slots, solo_slots)
            self.runner.clock = stage.clock
            return self.runner

        self.engine = self._engine(make_runner)
        self.intake = self._intake()
        self.heartbeat = self._heartbeat()
        self.consumer: MemoryConsumer = stage.broker.consumer(stage.topics.tasks, GROUP, self.intake, 10_000)
        self.scheduler = self._scheduler()
        self.delayed_consumer: MemoryConsumer | None = None
        self.heartbeat.turn()

    def _engine(self, make_runner: Callable[[Sink], ObedientRunner]) -> Engine:
        return Engine(
            self.stage.registry,
            self._ledger,
            self.producer,
            self.stage.topics,
            self.identity,
            self._telemetry,
            self.stage.clock,
            make_runner=make_runner,  # type: ignore[arg-type]
            nudge=lambda: None,
            recover=self._woken,
            order=self._settings.order,
            chance=lambda: 1.0,
        )

    def _intake(self) -> Intake:
        put = self.engine.inbox.put
        return Intake(
            self.stage.broker,
            self.stage.topics.tasks,
            GROUP,
            self._settings,
            self._telemetry,
            self.stage.clock,
            on_assigned=lambda assignment: put(Assigned(assignment)),
            on_gone=lambda assignment: put(Gone(assignment)),
            on_records=lambda records: put(Arrived(records)),
        )

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            self._ledger,
            self.identity,
            self._settings,
            self.stage.topics.tasks,
            self._telemetry,
            self.stage.clock,
            partitions=lambda: [where.partition for where in self.intake.assignments],
            moving=(self.intake, self.engine),
            on_lease=self.runner.renew,
            on_reborn=lambda: self.engine.inbox.put(Reborn()),
        )

    def _scheduler(self) -> Scheduler:
        return Scheduler(
            self.stage.broker,
            self.producer,
            self._ledger,
            self.stage.topics,
            DELAYED_GROUP,
            self._settings,
            self._telemetry,
            self.stage.clock,
            identity=self.identity,
            recover=self._woken,
        )

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
