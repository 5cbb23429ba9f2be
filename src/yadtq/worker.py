"""The process that talks to Kafka and Redis: intake, engine, scheduler, heartbeat and runner, as one.

One invariant: it leaves in an order that loses nothing and repeats nothing: first what runs is finished and settled,
then the offsets are committed and the group is left, then the heartbeat ends, and only then its claims. A worker that
is killed instead leaves all of that to the next owner.
"""

import os
import signal
import threading
from collections.abc import Callable, Sequence

from yadtq.app import App
from yadtq.broker import Producer
from yadtq.catalogue import Known
from yadtq.engine import Engine
from yadtq.errors import BrokerUnavailable, LedgerUnavailable, StandsStill
from yadtq.health import STILL_S, Health, Parts
from yadtq.heartbeat import Heartbeat, Identity
from yadtq.inbox import Arrived, Assigned, Drain, Gone, Reborn
from yadtq.intake import Intake
from yadtq.publisher import ensure_queue
from yadtq.rebuild import Rebuilder
from yadtq.runners import InlineRunner, Runner, Sink
from yadtq.scheduler import Scheduler
from yadtq.service import Clock, Service, SystemClock
from yadtq.settings import WorkerSettings
from yadtq.telemetry import Event, Telemetry

LOOK_S = 0.5
LEAVE_S = 4.0  # for all loops to end, when the grace time is over
LEAST_S = 0.5  # for each of them, however long the others took: the intake commits at its end
FLUSH_S = 0.5  # what has no report by now is repeated by the next owner


class Worker:
    """One worker on one queue.

    Args:
        app: Whose tasks it knows, and where Kafka and Redis are.
        settings: How it behaves.
        queue: Which queue it serves; the app's where left out.
        partitions: How many partitions the queue gets if it is missing; None waits until somebody creates it.
        make_runner: What runs the code; threads in this process where left out.
        known: The tasks that it can run; the app's where left out.
    """

    def __init__(
        self,
        app: App,
        settings: WorkerSettings,
        *,
        queue: str | None = None,
        partitions: int | None = None,
        make_runner: Callable[[Sink], Runner] | None = None,
        known: Known | None = None,
        telemetry: Telemetry | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.telemetry = telemetry or Telemetry()
        self._app = app
        self._settings = settings
        self._topics = app.layout.queue(queue or app.name)
        self._partitions = partitions
        self._clock = clock or SystemClock()
        self._make_runner = make_runner or self._inline
        self._known = known or app.registry
        self._leave = threading.Event()
        self._wake = threading.Event()
        self._services: list[Service] = []
        self._still: Service | None = None  # does not move any more, so nobody waits for its end

    def _inline(self, sink: Sink) -> Runner:
        slots, limit_bytes = self._settings.concurrency, self._app.settings.max_result_bytes
        publish = self._app.publish_for
        return InlineRunner(self._app.registry, slots, sink, limit_bytes, publish=publish, clock=self._clock)

    def drain(self) -> None:
        """Ask the worker to finish what runs and leave. Safe in a signal handler."""
        self._leave.set()
        self._wake.set()

    def run(self) -> None:
        """Work until `drain` is called.

        Raises:
            Superseded: A newer process runs under this worker's name.
            SettingsError: Kafka takes no member with this session, or the health endpoint's port cannot be had.
        """
        health = self._start_health()
        try:
            if self._wait_for_queue():
                self._serve(health)
        finally:
            if health is not None:
                health.stop()
                health.join(LEAVE_S)
        self._raise_failure()

    def _start_health(self) -> Health | None:
        if not self._settings.health:
            return None
        health = Health(
            self._app.broker,
            self._app.ledger,
            self._topics.tasks,
            self._app.layout.group(self._settings.group),
            self._settings,
            self.telemetry,
            self._clock,
            leaving=self._leave.is_set,
        )
        health.start()
        self.telemetry.tell(Event("health", detail=health.url))
        return health

    def _serve(self, health: Health | None) -> None:
        identity = Identity(self._settings.name, self._settings.lease_s, self._clock)
        producer = self._app.broker.producer()
        engine = Engine(
            self._known,
            self._app.ledger,
            producer,
            self._topics,
            identity,
            self.telemetry,
            self._clock,
            make_runner=self._make_runner,
            nudge=lambda: heartbeat.nudge(),
            recover=lambda errand: rebuilder.wake(errand),
            order=self._settings.order,
        )
        if not engine.runner.isolates and self._app.registry.solo:
            self.telemetry.tell(Event("not_isolated", detail=", ".join(self._app.registry.solo)))
        intake = self._intake(engine)
        heartbeat = self._heartbeat(identity, engine, intake)
        rebuilder = self._rebuilder(producer)
        scheduler = self._scheduler(producer, identity, rebuilder)
        parts = (engine, rebuilder, intake, scheduler, heartbeat)  # in the order in which they are stopped
        self._services = list(parts)
        for service in self._services:
            service.watchers.append(self._wake.set)
            service.start()
        if health is not None:
            health.watch(Parts(identity, intake, (intake, engine, heartbeat)))
            health.watchers.append(self._wake.set)
            self._services.append(health)
        try:
            self._watch(engine)
            self._drain(engine)
        finally:
            self._stop(parts)
            self._end(identity, engine)
            producer.close(FLUSH_S)

    def _scheduler(self, producer: Producer, identity: Identity, rebuilder: Rebuilder) -> Scheduler:
        return Scheduler(
            self._app.broker,
            producer,
            self._app.ledger,
            self._topics,
            self._app.layout.delayed_group(self._settings.group),
            self._settings,
            self.telemetry,
            self._clock,
            identity=identity,
            recover=rebuilder.wake,
        )

    def _intake(self, engine: Engine) -> Intake:
        return Intake(
            self._app.broker,
            self._topics.tasks,
            self._app.layout.group(self._settings.group),
            self._settings,
            self.telemetry,
            self._clock,
            on_assigned=lambda assignment: engine.inbox.put(Assigned(assignment)),
            on_gone=lambda assignment: engine.inbox.put(Gone(assignment)),
            on_records=lambda records: engine.inbox.put(Arrived(records)),
        )

    def _heartbeat(self, identity: Identity, engine: Engine, intake: Intake) -> Heartbeat:
        return Heartbeat(
            self._app.ledger,
            identity,
            self._settings,
            self._topics.tasks,
            self.telemetry,
            self._clock,
            partitions=lambda: sorted(where.partition for where in list(intake.assignments)),
            moving=(intake, engine),
            on_lease=engine.runner.renew,
            on_reborn=lambda: engine.inbox.put(Reborn()),
        )

    def _rebuilder(self, producer: Producer) -> Rebuilder:
        settings = self._settings
        least_ms = int(settings.lease_s * 1000)
        return Rebuilder(
            self._app.broker, self._app.ledger, producer, self._topics, settings.name, least_ms, self.telemetry
        )

    def _wait_for_queue(self) -> bool:
        """Create the queue's topics, or wait for them; False: asked to leave meanwhile."""
        told = False
        while not self._leave.is_set():
            try:
                found = self._app.broker.partitions().get(self._topics.tasks) or self._partitions
                if found:
                    ensure_queue(self._app.broker, self._topics, found)
                    self._tell_recovery_bound()
                    self.telemetry.answered("Kafka")
                    return True
                if not told:
                    self.telemetry.tell(Event("waiting", detail=self._topics.tasks))
                    told = True
            except BrokerUnavailable as error:
                self.telemetry.failed("Kafka", error)
            self._leave.wait(LOOK_S)
        return False

    def _tell_recovery_bound(self) -> None:
        """What really holds at this broker, so that nobody counts on a setting that it overrules."""
        settings, group = self._settings, self._app.layout.group(self._settings.group)
        found_ms = self._app.broker.recovery_ms(group, settings.group_protocol, settings.session_ms)
        bound = (
            f"after {found_ms / 1000:g} s" if found_ms else "when Kafka says so, and it does not tell how long that is"
        )
        detail = f"protocol {settings.group_protocol}: a killed worker's partitions move {bound}"
        self.telemetry.tell(Event("recovery_bound", detail=detail))

    def _watch(self, engine: Engine) -> None:
        """Wait until asked to leave, or until a loop ended by itself: a worker does not go on with a part missing.

        Raises:
            StandsStill: The engine does not move. Its beats have ended, but its intake would keep the partitions.
        """
        stillness = Stillness(engine)
        while not self._leave.is_set() and not any(service.ended.is_set() for service in self._services):
            # Not for ever: a signal that comes just before this thread sleeps has its handler run only when it wakes.
            self._wake.wait(LOOK_S)
            self._wake.clear()
            stillness.look()
            if stillness.looks * LOOK_S > STILL_S:
                self._still = engine
                raise StandsStill(engine.name, stillness.looks * LOOK_S, engine.stack)

    def _drain(self, engine: Engine) -> None:
        if not any(service.ended.is_set() for service in self._services):
            engine.inbox.put(Drain())
            if not engine.join(self._settings.grace_s):
                self.telemetry.tell(Event("overdue", detail=f"{self._settings.grace_s:g} s of grace"))

    def _stop(self, parts: Sequence[Service]) -> None:
        until_mono = self._clock.mono_s() + LEAVE_S
        for service in parts:
            service.stop()
            left_s = max(until_mono - self._clock.mono_s(), LEAST_S)
            service.join(0.0 if service is self._still else left_s)

    def _end(self, identity: Identity, engine: Engine) -> None:
        if not engine.runner.close(0.0):
            engine.runner.kill()
        try:
            self._app.ledger.leave(identity.name, identity.incarnation)
        except LedgerUnavailable as error:
            self.telemetry.tell(Event("not_left", detail=str(error)))

    def _raise_failure(self) -> None:
        for service in self._services:
            if service.failure is not None:
                raise service.failure


class Stillness:
    """How often an engine was looked at in a row without having moved.

    Looks are counted and not seconds: a process that was stopped, or a machine that slept, did not look either.
    """

    def __init__(self, engine: Engine) -> None:
        self.looks = 0
        self._engine = engine
        self._turns = engine.turns

    def look(self) -> None:
        turns, before = self._engine.turns, self._turns
        self._turns = turns
        self.looks = self.looks + 1 if turns == before and not self._engine.at_ledger else 0


def drain_on_signals(worker: Worker, say: Callable[[str], None]) -> None:
    """Let the first SIGINT or SIGTERM drain the worker and the second end the process at once."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def leave(number: int, _frame: object) -> None:
        os._exit(128 + number)

    def drain(_number: int, _frame: object) -> None:
        for number in numbers:
            signal.signal(number, leave)
        say("finishing what runs; once more to leave at once")
        worker.drain()

    for number in numbers:
        signal.signal(number, drain)
