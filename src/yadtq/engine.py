"""The thread that claims, dispatches and settles. It runs no user code, holds no consumer, and waits only for its inbox
and for the ledger.

One invariant: a work is in exactly one place: its lane, `_asking`, `_running`, on its way to the ledger, or with the
settler; what was sent to the ledger comes back to its list where no answer came, so a lost answer is asked for again.
When the process dies, every step that was not durable is repeated by the next owner of the record.

    arrived -> lane -> claim -> run -> settle -> offset closed

Everything comes and goes in batches: an event of the inbox carries all that came at the same time, a turn sends all
that waits for the ledger in one round trip and all that waits for Kafka at once. Nothing waits for a batch to fill.
"""

import queue
import random
from collections.abc import Callable, Iterable, Sequence

from yadtq.attempt import Outcome, Recalled, Started
from yadtq.broker import Producer, Record
from yadtq.catalogue import Known
from yadtq.claim import Work, close_records
from yadtq.codec import Undecodable, decode
from yadtq.flight import Courier, Flight
from yadtq.heartbeat import Identity
from yadtq.inbox import Arrived, Assigned, Drain, Gone, Inbox, Reborn
from yadtq.intake import Assignment
from yadtq.layout import QueueTopics
from yadtq.ledger import (
    Answer,
    Answers,
    Elsewhere,
    Errand,
    Ledger,
    Over,
    Question,
    Refusal,
    Release,
    Resend,
    Run,
    Stale,
)
from yadtq.lineup import LineUp
from yadtq.register import Registrar
from yadtq.retry import DEFAULT, decide
from yadtq.runners import Runner, Sink
from yadtq.service import Clock, Service
from yadtq.settings import Order
from yadtq.settle import Reported, Settler, event_of
from yadtq.telemetry import Event, Telemetry
from yadtq.writes import Writes, outcome_again, writes_of, writes_of_copy, writes_of_undecodable

IDLE_S = 0.5  # the longest sleep; the loop must move between two beats
ELSEWHERE_S = 0.5  # between two questions about a record that another worker holds
REFUSED_S = 0.1
LONG_S = 30.0  # a head that is older leaves its place where it holds up a window (S5)
LOOK_S = 1.0  # between two looks for a head that holds up its window (S5)


class Engine(Service):
    """Drives every record from its arrival to its closed offset.

    Args:
        nudge: Called when the heartbeat should beat now.
        recover: Called when outcomes have to be read in first, with what has to be done.
        order: What has to wait for what.
        chance: Draws the place of a wait in its range.
    """

    def __init__(
        self,
        known: Known,
        ledger: Ledger,
        producer: Producer,
        topics: QueueTopics,
        identity: Identity,
        telemetry: Telemetry,
        clock: Clock,
        *,
        make_runner: Callable[[Sink], Runner],
        nudge: Callable[[], None],
        recover: Callable[[Errand], None],
        order: Order = "unordered",
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__("yadtq-engine")
        self.inbox: queue.SimpleQueue[Inbox] = queue.SimpleQueue()
        self.draining = False
        self.runner = make_runner(self.inbox.put)
        self._known = known
        self._topics = topics
        self._identity = identity
        self._telemetry = telemetry
        self._clock = clock
        self._nudge = nudge
        self._recover = recover
        registrar = Registrar(ledger, topics, identity, telemetry, recover)
        self._courier = Courier(ledger, topics, identity, known, telemetry, clock, registrar)
        self._order = order
        self._chance = chance
        self._look_mono = 0.0
        self._lineup = LineUp(known, self.runner, order)
        self._asking: list[Work] = []
        self._running: dict[int, Work] = {}
        self._releasing: list[Release] = []
        self._flight: tuple[Flight, Question] | None = None  # on its way to the ledger
        self._settler = Settler(producer, topics, identity.name, telemetry, clock, self.inbox.put)

    def run(self) -> None:
        while not self.stopping.is_set() and not (self.draining and self.idle):
            self.step(IDLE_S)

    @property
    def at_ledger(self) -> bool:
        """It waits for the ledger, which may take its time: it does not stand still."""
        return self._courier.away

    @property
    def idle(self) -> bool:
        """Nothing is on its way from a claim to its seal."""
        return self._settler.idle and not (self._asking or self._running or self._releasing or self._flight)

    def step(self, most_s: float) -> None:
        """Wait for something to do, at most `most_s`, and do it."""
        self.turns += 1
        for event in self._gather(self._wait_s(most_s)):
            self._handle(event)
        self._settler.send_again()
        now = self._clock.mono_s()
        if now >= self._look_mono:
            self._look_mono = now + LOOK_S
            self._hand_off(now)
        self._exchange(now)

    def _wait_s(self, most_s: float) -> float:
        if self._flight is not None:  # it is waited for where its answers come
            return 0.0
        now = self._clock.mono_s()
        times = self._settler.times
        if self._asking or self._releasing or self._settler.asking:
            times.append(self._courier.again_mono)
        head = self._lineup.next_mono()
        if head is not None:
            times.append(max(head, self._courier.again_mono) if self._identity.alive else now + REFUSED_S)
        return min([most_s, *(max(at - now, 0.0) for at in times)])

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
            case Reported(reports):
                self._settler.reported(reports)
            case Arrived(records):
                self._arrived(records)
            case Assigned(assignment):
                self._lineup.add(assignment)
                self._nudge()
            case Gone(assignment):
                self._gone(assignment)
            case Reborn():
                self._recall(list(self._running))
            case Drain():
                self.draining = True
                self._lineup.rest()
                self._recall(list(self._running))
            case _:
                self._heard(event)

    # -- a record arrives, a partition goes ----------------------------------------------------------------------------

    def _arrived(self, records: Sequence[tuple[Assignment, Record]]) -> None:
        if self.draining:
            return
        bad: list[Writes] = []
        for assignment, record in records:
            if assignment.gone:
                continue
            try:
                work = Work(assignment, record, decode(record.value))
                self._lineup.arrive(work)
            except Undecodable as error:
                bad.append(writes_of_undecodable(assignment, record, self._topics, error.reason))
        self._settler.write(bad)

    def _gone(self, assignment: Assignment) -> None:
        """What has not started is given back (C1). What runs, runs on: its new owner is answered ELSEWHERE."""
        out = self._lineup.remove(assignment)
        self._recall([work.number for work in out if work.number in self._running])
        self._nudge()

    def _recall(self, numbers: list[int]) -> None:
        if numbers:
            self.runner.recall(numbers)

    def _recall_type(self, task_type: str) -> None:
        """What of a type that runs alone from now on has not started leaves the shared runners."""
        self._telemetry.tell(Event("isolated", detail=f"tasks {task_type!r} run alone: one ended a process of its own"))
        shared = [work for work in self._running.values() if work.place == "shared"]
        self._recall([work.number for work in shared if work.envelope.task_type == task_type])

    def _give_back(self, work: Work) -> None:
        self._releasing.append(work.release())
        self._tell("released", work)
        self._claim_again(work, REFUSED_S)

    def _claim_again(self, work: Work, wait_s: float) -> None:
        """Back to the claim, under a new token: the old one has had its answer."""
        work.round, work.run, work.verdict, work.told = work.round + 1, None, None, False
        if not self.draining:
            self._ask_later(work, wait_s)

    def _hand_off(self, now: float) -> None:
        """A long task must not hold its partition's window: a copy at the tail takes its place (S5)."""
        if self._order != "unordered" or self.draining:
            return
        for work in [*self._running.values(), *self._lineup.later()]:
            if work.copied or not work.since_mono or now - work.since_mono < LONG_S:
                continue
            head = work.assignment.head
            if head is not None and head[0] == work.record.offset and work.assignment.half_full:
                work.copied = True
                self._settler.write([writes_of_copy(work)])
                if work.number not in self._running:  # it only waits for somebody else: so does the copy
                    self._lineup.drop(work)

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def _exchange(self, now: float) -> None:
        """Ask the ledger, and take its answers to what was asked before: it works on one batch, we on the other."""
        if self._flight is None and not self._take_off(now, []):
            return
        flight, answers = self._land()
        if answers is not None:
            self._take_off(now, flight.asking)
            self._take(flight, answers)

    def _take_off(self, now: float, claimed: Sequence[Work]) -> bool:
        """Send everything for the ledger in one round trip: accepts, seals and releases ride with the next claims.

        claimed: What will take room in the runners before these.
        """
        if now < self._courier.again_mono:
            return False
        settler = self._settler
        if not self.draining and self._identity.alive:
            self._asking += self._lineup.take(now, [*claimed, *self._asking])
        flight = Flight(settler.accepting, settler.sealing, self._releasing, self._asking, self._identity.incarnation)
        question = self._courier.send(flight)
        if question is None:
            return False
        settler.accepting, settler.sealing, self._releasing, self._asking = [], [], [], []
        self._flight = flight, question
        return True

    def _land(self) -> tuple[Flight, Answers | None]:
        """Wait for the answers. Where there are none all is asked again, before what has come meanwhile."""
        if self._flight is None:
            raise AssertionError("nothing is on its way")
        (flight, question), self._flight = self._flight, None
        answers = self._courier.fetch(question, self._meanwhile)
        if answers is not None and not answers.waiting:
            return flight, answers
        settler = self._settler
        settler.accepting[:0], settler.sealing[:0] = flight.accepting, flight.sealing
        self._releasing[:0], self._asking[:0] = flight.releasing, flight.asking
        if answers is not None:
            self._courier.register([*self._running.values(), *settler.accepting])
        return flight, None

    def _meanwhile(self) -> bool:
        """While the ledger works: take what has come, so that the next batch forms."""
        events = self._gather(0)
        for event in events:
            self._handle(event)
        return bool(events)

    def _take(self, flight: Flight, answers: Answers) -> None:
        """Take the answers, in the order in which the ledger made the moves."""
        done, back = self._settler.accepted(flight.accepting, answers.accepts, answers.epoch)
        self._lineup.done(done)
        for work, wait_s in back:
            if work.verdict is not None and work.verdict.died and self._lineup.isolate(work):
                self._recall_type(work.envelope.task_type)
            self._claim_again(work, wait_s)
        over, refused = self._settler.sealed(flight.sealing, answers.seals)
        close_records(over)
        for work in refused:
            self._claim_again(work, 0.0)
        self._answered(flight.asking, answers.claims, flight.incarnation)

    def _answered(self, works: Sequence[Work], answers: Sequence[Answer], incarnation: str) -> None:
        starting: list[Work] = []
        writing: list[Writes] = []
        closing: list[Work] = []
        refusals: set[Refusal] = set()
        for work, answer in zip(works, answers, strict=True):
            match answer:
                case Run():
                    work.run, work.incarnation = answer, incarnation
                    starting.append(work)
                case Over(record) if record.sealed:
                    self._tell("settled", work)
                    closing.append(work)
                case Over(record) | Resend(record):  # S3: accepted, and perhaps never written: write all again
                    if isinstance(answer, Resend):
                        self._tell("resent", work)
                    self._lineup.done([work])
                    writing.append(writes_of(work, outcome_again(record), self._topics))
                case Stale():
                    self._tell("stale", work)
                    closing.append(work)
                case Elsewhere(worker):
                    self._telemetry.tell(event_of("elsewhere", work, worker))
                    work.since_mono = work.since_mono or self._clock.mono_s()
                    self._ask_later(work, ELSEWHERE_S)
                case Refusal():
                    refusals.add(answer)
                    self._ask_later(work, REFUSED_S)
        self._refused(refusals)
        self._lineup.done(closing)
        close_records(closing)
        self._settler.write(writing)
        self._start(starting)

    def _ask_later(self, work: Work, wait_s: float) -> None:
        self._lineup.again(work, self._clock.mono_s() + wait_s)

    def _refused(self, refusals: set[Refusal]) -> None:
        if Refusal.DEAD in refusals:
            self._nudge()
        if Refusal.UNREAD in refusals:
            self._recover(Errand.READ)

    def _start(self, works: Iterable[Work]) -> None:
        alive, now = self._identity.alive, self._clock.mono_s()
        starting: list[Work] = []
        for work in works:
            if work.held.taken_from:
                self._telemetry.tell(event_of("taken_over", work, work.held.taken_from))
            if not alive or self.draining or work.assignment.gone:  # C6: not under a lease that may have run out
                self._give_back(work)
            else:
                work.since_mono = now
                self._running[work.number] = work
                starting.append(work)
        if starting:
            self.runner.start([work.attempt(self._known) for work in starting])

    # -- settle --------------------------------------------------------------------------------------------------------

    def _heard(self, events: Sequence[Started | Outcome | Recalled]) -> None:
        """What became of attempts in the runner."""
        for event in events:
            match event:
                case Outcome():
                    self._finished(event)
                case Started(number):
                    self._started(self._running[number])
                case Recalled(number):
                    self._give_back(self._running.pop(number))

    def _started(self, work: Work) -> None:
        work.told = True
        self._tell("started", work)

    def _finished(self, outcome: Outcome) -> None:
        work = self._running.pop(outcome.number)
        if not work.told:
            self._started(work)
        run = work.held
        task = self._known.get(work.envelope.task_type)
        verdict = decide(
            outcome,
            failures=run.failures,
            max_attempts=work.envelope.max_attempts,
            chance=self._chance(),
            deaths=run.deaths,
            policy=DEFAULT if task is None else task.retry,
            in_place=self._order != "unordered",
        )
        self._settler.finished(work, verdict)

    def _tell(self, kind: str, work: Work) -> None:
        if self._telemetry.wanted(kind):
            self._telemetry.tell(event_of(kind, work))
        else:
            self._telemetry.counts[kind] += 1
