"""The thread that claims, dispatches and settles. It runs no user code, holds no consumer, and waits only for its inbox
and for the ledger.

One invariant: a work is in exactly one place: its lane, `_asking`, `_running`, `_accepting`, `_writing` or `_sealing`;
what was sent to the ledger stays in its list until it is answered, so a lost answer is asked for again. When the
process dies, every step that was not durable is repeated by the next owner of the record.

    arrived -> lane -> claim -> run -> accept -> dead letter, outcome -> seal -> offset closed
"""

import queue
import random
from collections.abc import Callable
from dataclasses import dataclass

from yadtq.attempt import Outcome, Recalled, Started
from yadtq.broker import Message, Producer, Record, Report
from yadtq.claim import Work
from yadtq.codec import Undecodable, decode
from yadtq.errors import LedgerUnavailable
from yadtq.heartbeat import Identity
from yadtq.intake import Assignment
from yadtq.lanes import Lanes
from yadtq.layout import QueueTopics
from yadtq.ledger import Accept, Answer, Batch, Elsewhere, Ledger, Over, Refusal, Release, Run, Seal
from yadtq.retry import decide
from yadtq.runners import Runner, Sink
from yadtq.service import Clock, Service
from yadtq.settle import Writes, outcome_again, outcome_of, writes_of, writes_of_undecodable
from yadtq.states import State
from yadtq.task import Registry
from yadtq.telemetry import Event, Telemetry

IDLE_S = 0.5  # the longest sleep; the loop must move between two beats
ELSEWHERE_S = 0.5  # between two questions about a record that another worker holds
REFUSED_S = 0.1
LEDGER_AGAIN_S = 0.25
WRITE_AGAIN_S = 0.5
CLAIMS_MOST = 500  # in one round trip: 2.8 ms in Redis, during which it serves nobody else


@dataclass(frozen=True, slots=True)
class Arrived:
    assignment: Assignment
    record: Record


@dataclass(frozen=True, slots=True)
class Assigned:
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Gone:
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Reported:
    writes: Writes
    report: Report


@dataclass(frozen=True, slots=True)
class Reborn:
    """The incarnation changed: what was claimed and has not started is not ours any more."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Finish what runs, claim nothing more."""


Inbox = Arrived | Assigned | Gone | Reported | Reborn | Drain | Started | Outcome | Recalled


class Engine(Service):
    """Drives every record from its arrival to its closed offset."""

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        producer: Producer,
        topics: QueueTopics,
        identity: Identity,
        telemetry: Telemetry,
        clock: Clock,
        *,
        make_runner: Callable[[Sink], Runner],
        nudge: Callable[[], None],
        width: int,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__("yadtq-engine")
        self.inbox: queue.SimpleQueue[Inbox] = queue.SimpleQueue()
        self.draining = False
        self.runner = make_runner(self.inbox.put)
        self._registry = registry
        self._ledger = ledger
        self._producer = producer
        self._topics = topics
        self._identity = identity
        self._telemetry = telemetry
        self._clock = clock
        self._nudge = nudge
        self._chance = chance
        self._ledger_again_mono = 0.0
        self._lanes: Lanes[Assignment, Work] = Lanes(width)
        self._solo_lanes: Lanes[Assignment, Work] = Lanes(width)  # claimed only as they can start; they hold up nobody
        self._apart = self.runner.isolates and width > 1  # in the order of a partition all of it is one line
        self._asking: list[Work] = []
        self._running: dict[int, Work] = {}
        self._accepting: list[Work] = []
        self._writing: set[Writes] = set()
        self._write_again: list[tuple[float, Writes]] = []
        self._sealing: list[Writes] = []
        self._releasing: list[Release] = []

    def run(self) -> None:
        while not self.stopping.is_set() and not (self.draining and self.idle):
            self.step(IDLE_S)

    @property
    def idle(self) -> bool:
        """Nothing is on its way from a claim to its seal."""
        held = (self._asking, self._running, self._accepting, self._writing, self._sealing, self._releasing)
        return not any(held)

    def step(self, most_s: float) -> None:
        """Wait for something to do, at most `most_s`, and do it."""
        self.turns += 1
        for event in self._gather(self._wait_s(most_s)):
            self._handle(event)
        self._send_again()
        if self._clock.mono_s() >= self._ledger_again_mono:
            self._exchange()

    def _wait_s(self, most_s: float) -> float:
        now = self._clock.mono_s()
        times = [at for at, _ in self._write_again]
        if self._pending:
            times.append(self._ledger_again_mono)
        for lanes, room in ((self._lanes, self.runner.room), (self._solo_lanes, self.runner.solo_room)):
            head = lanes.next_mono()
            if head is not None and room() > 0:  # without room an outcome wakes the loop
                times.append(max(head, self._ledger_again_mono) if self._identity.alive else now + REFUSED_S)
        return min([most_s, *(max(at - now, 0.0) for at in times)])

    @property
    def _pending(self) -> bool:
        return bool(self._asking or self._accepting or self._sealing or self._releasing)

    def _gather(self, wait_s: float) -> list[Inbox]:
        events: list[Inbox] = []
        try:
            events.append(self.inbox.get(timeout=wait_s) if wait_s > 0 else self.inbox.get_nowait())
            while len(events) < 1_000:
                events.append(self.inbox.get_nowait())
        except queue.Empty:
            return events
        return events

    def _handle(self, event: Inbox) -> None:
        match event:
            case Arrived(assignment, record):
                self._arrived(assignment, record)
            case Started(number):
                self._tell("started", self._running[number])
            case Outcome():
                self._finished(event)
            case Recalled(number):
                self._give_back(self._running.pop(number))
            case Reported(writes, report):
                self._reported(writes, report)
            case Assigned(assignment):
                self._lanes.add(assignment)
                self._solo_lanes.add(assignment)
                self._nudge()
            case Gone(assignment):
                self._gone(assignment)
            case Reborn():
                self._recall(list(self._running))
            case Drain():
                self.draining = True
                self._lanes.rest()
                self._solo_lanes.rest()
                self._recall(list(self._running))

    # -- a record arrives, a partition goes ----------------------------------------------------------------------------

    def _arrived(self, assignment: Assignment, record: Record) -> None:
        if assignment.gone or self.draining:
            return
        try:
            work = Work(assignment, record, decode(record.value))
            work.solo = self._apart and self._registry.is_solo(work.envelope.task_type)
            self._lanes_of(work).arrive(assignment, work)
        except Undecodable as error:
            self._write(writes_of_undecodable(assignment, record, self._topics, error.reason))

    def _gone(self, assignment: Assignment) -> None:
        """What has not started is given back (C1). What runs, runs on: its new owner is answered ELSEWHERE."""
        out = self._lanes.remove(assignment) | self._solo_lanes.remove(assignment)
        self._recall([work.number for work in out if work.number in self._running])
        self._nudge()

    def _lanes_of(self, work: Work) -> Lanes[Assignment, Work]:
        return self._solo_lanes if work.solo else self._lanes

    def _recall(self, numbers: list[int]) -> None:
        if numbers:
            self.runner.recall(numbers)

    def _give_back(self, work: Work) -> None:
        self._releasing.append(work.release())
        self._tell("released", work)
        self._claim_again(work, REFUSED_S)

    def _claim_again(self, work: Work, wait_s: float) -> None:
        """Back to the claim, under a new token: the old one has had its answer."""
        work.round, work.run, work.verdict = work.round + 1, None, None
        if not self.draining:
            self._ask_later(work, wait_s)

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def _exchange(self) -> None:
        """Everything for the ledger in one round trip: accepts, seals and releases ride with the next claims."""
        if not self.draining and self._identity.alive:
            now, solo = self._clock.mono_s(), sum(work.solo for work in self._asking)
            room = min(self.runner.room(), CLAIMS_MOST) - len(self._asking) + solo
            self._asking += self._lanes.take(room, now) + self._solo_lanes.take(self.runner.solo_room() - solo, now)
        accepting, sealing, releasing, asking = self._accepting, self._sealing, self._releasing, self._asking
        batch = Batch(
            accepts=[accept_of(work) for work in accepting],
            seals=[seal_of(writes) for writes in sealing],
            releases=releasing,
            claims=[work.claim(self._registry) for work in asking],
        )
        if not batch:
            return
        try:
            answers = self._ledger.exchange(self._identity.name, self._identity.incarnation, batch)
        except LedgerUnavailable as error:  # everything stays where it is and is asked again: a lost reply is no answer
            self._telemetry.failed("Redis", error)
            self._ledger_again_mono = self._clock.mono_s() + LEDGER_AGAIN_S
            return
        self._telemetry.answered("Redis")
        self._accepting, self._sealing, self._releasing, self._asking = [], [], [], []
        for work, accepted_at_ms in zip(accepting, answers.accepts, strict=True):
            self._accepted(work, accepted_at_ms)
        for writes, sealed in zip(sealing, answers.seals, strict=True):
            self._sealed(writes, sealed)
        self._answered(list(zip(asking, answers.claims, strict=True)))

    def _answered(self, answers: list[tuple[Work, Answer]]) -> None:
        starting: list[Work] = []
        for work, answer in answers:
            match answer:
                case Run():
                    work.run = answer
                    starting.append(work)
                case Over(record) if record.sealed:
                    self._tell("settled", work)
                    self._close(work)
                case Over(record):  # S3: accepted, and perhaps never written: write all of it again
                    self._lanes_of(work).done(work.assignment, work)
                    self._write(writes_of(work, outcome_again(record), self._topics))
                case Elsewhere(worker):
                    self._telemetry.tell(event_of("elsewhere", work, worker))
                    self._ask_later(work, ELSEWHERE_S)
                case Refusal():
                    self._ask_later(work, REFUSED_S)
        refusals = {answer for _, answer in answers if isinstance(answer, Refusal)}
        self._refused(refusals)
        self._start(starting)

    def _ask_later(self, work: Work, wait_s: float) -> None:
        self._lanes_of(work).again(work.assignment, work, self._clock.mono_s() + wait_s)

    def _refused(self, refusals: set[Refusal]) -> None:
        if Refusal.DEAD in refusals:
            self._nudge()
        if Refusal.WAIT in refusals:
            try:
                self._ledger.open()
            except LedgerUnavailable as error:
                self._telemetry.failed("Redis", error)

    def _start(self, works: list[Work]) -> None:
        alive = self._identity.alive  # C6: a claim under a lease that ran out is not started
        for work in works:
            if work.held.taken_from:
                self._telemetry.tell(event_of("taken_over", work, work.held.taken_from))
            if not alive or self.draining or work.assignment.gone:
                self._give_back(work)
            else:
                self._running[work.number] = work
        self.runner.start([work.attempt(self._registry) for work in works if work.number in self._running])

    # -- settle --------------------------------------------------------------------------------------------------------

    def _finished(self, outcome: Outcome) -> None:
        work = self._running.pop(outcome.number)
        run, limit = work.held, work.envelope.max_attempts
        work.verdict = decide(
            outcome, failures=run.failures, max_attempts=limit, chance=self._chance(), deaths=run.deaths
        )
        self._accepting.append(work)

    def _accepted(self, work: Work, accepted_at_ms: int | None) -> None:
        verdict = work.verdict
        if verdict is None or accepted_at_ms is None:  # S2: closes nothing; the claim knows what became of the task
            self._tell("refused", work)
            self._claim_again(work, 0.0)
        elif verdict.state is State.QUEUED:
            last_line = (verdict.error_log or "").strip().rsplit("\n", 1)[-1]
            self._telemetry.tell(event_of("retrying", work, f"in {verdict.wait_s:.2f} s: {last_line}"))
            if verdict.died and self._apart:
                self._lanes_of(work).done(work.assignment, work)
                work.solo = True
            self._claim_again(work, verdict.wait_s)
        else:
            self._lanes_of(work).done(work.assignment, work)
            outcome = outcome_of(work, self._identity.name, accepted_at_ms)
            self._write(writes_of(work, outcome, self._topics))

    def _write(self, writes: Writes) -> None:
        """Send the next message; when all are acknowledged, seal (or close, where there is no task to seal)."""
        message = writes.next
        if message is not None:
            self._writing.add(writes)
            self._send(writes, message)
            return
        self._writing.discard(writes)
        if writes.outcome is not None:
            self._sealing.append(writes)
        else:
            self._telemetry.tell(
                Event("dead_lettered", writes.record.partition, writes.record.offset, detail=writes.reason)
            )
            writes.assignment.close(writes.record.offset)

    def _send(self, writes: Writes, message: Message) -> None:
        self._producer.produce(message, lambda report: self.inbox.put(Reported(writes, report)))

    def _reported(self, writes: Writes, report: Report) -> None:
        if writes.reported(report):
            self._telemetry.answered("Kafka")
            self._write(writes)
        else:
            self._telemetry.failed("Kafka", f"Kafka does not take a record: {report.error}")
            self._write_again.append((self._clock.mono_s() + WRITE_AGAIN_S, writes))

    def _send_again(self) -> None:
        now = self._clock.mono_s()
        due = [writes for at, writes in self._write_again if at <= now]
        self._write_again = [(at, writes) for at, writes in self._write_again if at > now]
        for writes in due:
            self._write(writes)

    def _sealed(self, writes: Writes, sealed: bool) -> None:
        work, outcome = writes.work, writes.outcome
        if work is None or outcome is None:
            raise AssertionError("only the outcome of a task is sealed")
        if not sealed:
            self._tell("refused", work)
            self._claim_again(work, 0.0)
            return
        kind = "succeeded" if outcome.state is State.SUCCESS else "failed"
        detail = (outcome.error_log or "").strip().rsplit("\n", 1)[-1]
        where = work.record
        self._telemetry.tell(Event(kind, where.partition, where.offset, outcome.task_id, outcome.attempts, detail))
        self._close(work)

    def _close(self, work: Work) -> None:
        self._lanes_of(work).done(work.assignment, work)
        work.assignment.close(work.record.offset)

    def _tell(self, kind: str, work: Work) -> None:
        self._telemetry.tell(event_of(kind, work))


def event_of(kind: str, work: Work, detail: str = "") -> Event:
    attempt = work.run.attempt if work.run is not None else 0
    return Event(kind, work.record.partition, work.record.offset, work.envelope.task_id, attempt, detail)


def accept_of(work: Work) -> Accept:
    """Settle, step 1."""
    verdict = work.verdict
    if verdict is None:
        raise AssertionError(f"task {work.envelope.task_id!r} has no verdict")
    return Accept(
        task_id=work.envelope.task_id,
        fence=work.held.fence,
        state=verdict.state,
        failed=verdict.failed,
        died=verdict.died,
        result=verdict.result,
        error_log=verdict.error_log,
    )


def seal_of(writes: Writes) -> Seal:
    """Settle, step 3."""
    if writes.outcome is None:
        raise AssertionError("only the outcome of a task is sealed")
    return Seal(writes.outcome.task_id, writes.outcome.fence)
