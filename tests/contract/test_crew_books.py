"""The books of a crew against a naive model: whatever children do, whenever they die, every attempt is answered once.

Only the processes are not real: the test reads their streams, writes their pages and ends them, step by step.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import yadtq.runners.crew
import yadtq.runners.pace
import yadtq.runners.process
import yadtq.runners.staff
from waiting import ManualClock
from yadtq.attempt import Attempt, Ending, Lease, Outcome, Recalled, Started
from yadtq.runners import frames
from yadtq.runners.crew import Crew
from yadtq.runners.pace import Pace
from yadtq.runners.seats import Seats
from yadtq.runners.spawn import Opening
from yadtq.runners.staff import Plan
from yadtq.runners.submits import Submits

AHEAD = 3
SLOW_MS = 20  # what waits behind such tasks is moved to a child with free slots
LEASE_MS = 10_000
SHARED = Plan(slots=2, least=2, most=2, max_tasks=9)
SOLO = Plan(slots=1, least=0, most=3, spare=1, ahead_most=0)


@pytest.fixture(autouse=True, scope="module")
def _no_waiting() -> Iterator[None]:
    """Every turn looks, each frame is a measurement, nothing is stale until the test says so, starts need no pause."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yadtq.runners.crew, "TICK_S", 0.0)
        patch.setattr(yadtq.runners.pace, "WINDOW_S", 0.0)
        patch.setattr(yadtq.runners.process, "STALE_S", 1e9)
        patch.setattr(yadtq.runners.staff, "BACKOFF_S", 0.0)
        patch.setattr(yadtq.runners.staff, "IDLE_S", 0.0)
        patch.setattr(Pace, "ahead", lambda *_: AHEAD)
        yield


class FakeProcess:
    """A child whose every step is the test's."""

    how_it_ended = "was ended by the test"

    def __init__(self, pid: int, slots: int, opening: Opening, clock: ManualClock) -> None:
        self.pid = pid
        self.slots = slots
        self._clock = clock
        self.alive = True
        self.ready = False
        self.waiting: dict[int, frames.Job] = {}
        self.running: dict[int, frames.Job] = {}
        self.unsaid: list[Outcome] = []
        self.asked: list[int] = []  # to give back
        self.returned: set[int] = set()
        self._on_end: Callable[[], None] = lambda: None
        self._stream = opening.stream.dup()
        self._stream.setblocking(False)
        page = os.dup(opening.page)
        self._seats = Seats(page, opening.seats)
        os.close(page)
        self._inbound = frames.Inbound()

    def watch(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end

    def kill(self, why: str = "") -> None:
        if self.alive:
            self.alive = False
            self._stream.close()
            self._on_end()

    def hello(self) -> None:
        self.ready = True
        self._say(frames.Hello([]))

    def read(self) -> None:
        """Take what the worker sent; leave where it has closed the stream."""
        with contextlib.suppress(BlockingIOError):
            while self._inbound.receive(self._stream):
                for frame in self._inbound.frames():
                    self._heed(frames.decode_to_child(frame))
            self.kill()

    def _heed(self, message: frames.ToChild) -> None:
        match message:
            case frames.Jobs(jobs):
                self.waiting |= {job.number: job for job in jobs}
            case frames.Recall(numbers):
                self.asked += numbers
                back = [n for n in numbers if self.waiting.pop(n, None) is not None]
                self.returned |= set(back)
                self._say(frames.Returned(back))
            case frames.Ping():
                self._say(frames.Pong())

    def start(self) -> tuple[int, bool]:
        """Start the next job, where its lease allows it."""
        job = self.waiting.pop(next(iter(self.waiting)))
        if not self._seats.allows(job.lease, self._clock.mono_s()):
            self.returned.add(job.number)
            self._say(frames.Returned([job.number]))
            return job.number, False
        self._seats.start(job.seat, job.number)
        self.running[job.number] = job
        return job.number, True

    def end(self, ran_ms: int = SLOW_MS) -> None:
        """User code has returned; nobody has heard of it yet."""
        job = self.running.pop(next(iter(self.running)))
        self._seats.end(job.seat, job.number)
        self.unsaid.append(Outcome(job.number, Ending.RETURNED, 1, 1 + ran_ms, b"1"))

    def say(self) -> list[int]:
        said, self.unsaid = self.unsaid, []
        self._say(frames.Finished(said))
        return [done.number for done in said]

    def _say(self, message: frames.FromChild) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._stream.sendall(frames.frame_of(message))

    def holds(self, number: int) -> bool:
        return number in self.waiting or number in self.running


class Books(RuleBasedStateMachine):
    """The model: which attempts are open, which were asked back, what their code did, and in which child it is now."""

    plan = SHARED

    def __init__(self) -> None:
        super().__init__()
        self.children: list[FakeProcess] = []
        self.serial = 0
        self.open: set[int] = set()  # given and not answered
        self.wanted: set[int] = set()  # asked back
        self.said: set[int] = set()  # a child has sent the outcome
        self.died: set[int] = set()  # in the middle of user code
        self.lost: set[int] = set()  # their code had ended, and their child died before it said so
        self.begun: set[int] = set()  # Started was told
        self.entered: set[int] = set()  # user code was called
        self.back: set[int] = set()  # asked back, and a child has given it back
        self.over: list[int] = []  # answered; the engine may give them again under the same numbers
        self.clock = ManualClock()
        self.lease = Lease("0")
        self.claimed: dict[int, str] = {}  # under which incarnation
        self.lapsed: set[int] = set()  # there was a moment when they were not allowed to start
        publish = Submits(None).put
        self.crew = Crew("app", self.plan, self.spawn, self.told, lambda _kind, _text: None, publish, self.clock)

    def spawn(self, opening: Opening) -> FakeProcess:
        self.children.append(FakeProcess(len(self.children) + 1, self.plan.slots, opening, self.clock))
        return self.children[-1]

    def told(self, events: Sequence[Started | Outcome | Recalled]) -> None:
        for event in events:
            self.heard(event)

    def heard(self, event: Started | Outcome | Recalled) -> None:
        number = event.number
        assert number in self.open, f"{event} of what is not open"
        match event:
            case Started():
                assert number not in self.begun, "its start was told before"
                assert number in self.entered, "it has not started"
                self.begun.add(number)
                return
            case Recalled():
                assert number in self.wanted | self.lapsed, "nobody asked for it, and its lease is good"
                assert not any(child.holds(number) for child in self.living), "it can still start"
            case Outcome(ending=Ending.RETURNED):
                assert number in self.said, "nobody said so"
            case Outcome(ending=Ending.DIED):
                assert number in self.died, "its code was not running"
                assert number not in self.said, "its outcome was sent"
            case Outcome(ending=Ending.LOST):
                assert number in self.lost, "its code had not come to its end in a child that died unheard"
            case _:
                raise AssertionError(f"{event} cannot be")
        if not isinstance(event, Recalled):
            assert number in self.begun, "its start was not told"
        self.over.append(number)
        asked = (self.wanted, self.back, self.lapsed)
        for facts in (self.open, self.said, self.died, self.lost, self.begun, self.entered, *asked):
            facts.discard(number)

    @property
    def living(self) -> list[FakeProcess]:
        return [child for child in self.children if child.alive]

    def pick(self, at: int, able: Callable[[FakeProcess], object]) -> FakeProcess | None:
        able_ones = [child for child in self.living if able(child)]
        return able_ones[at % len(able_ones)] if able_ones else None

    @initialize()
    def first(self) -> None:
        self.crew.turn(0)
        self.renew()

    @rule()
    def renew(self) -> None:
        """A good beat."""
        self.lease = Lease(self.lease.incarnation, self.clock.mono_s() + LEASE_MS / 1_000)
        self.crew.renew(self.lease)

    @rule(late_ms=st.integers(0, 100))
    def lease_over(self, late_ms: int) -> None:
        """No beat came in time."""
        self.clock.turn(LEASE_MS + late_ms)
        self.lapsed |= self.open

    @rule(data=st.booleans())
    def reborn(self, data: bool) -> None:
        """The worker learns that it was DEAD; perhaps its first beat comes at once."""
        self.lease = Lease(str(int(self.lease.incarnation) + 1))
        self.crew.renew(self.lease)
        self.lapsed |= self.open
        if data:
            self.renew()

    def allows(self, number: int) -> bool:
        return self.lease.allows(self.claimed[number], self.clock.mono_s())

    @rule(count=st.integers(1, 8), again=st.integers(1, 2))
    def give(self, count: int, again: int) -> None:
        old, self.over = self.over[-again:], self.over[: -again or None]
        numbers = [*reversed(old), *range(self.serial, self.serial + count)]
        self.serial += count
        self.open |= set(numbers)
        life = self.lease.incarnation
        self.claimed |= dict.fromkeys(numbers, life)
        self.lapsed |= {number for number in numbers if not self.allows(number)}
        self.crew.start([Attempt(n, f"t{n}", "any", b"[]", b"{}", 1, "1.1", incarnation=life) for n in numbers])

    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        asked = data.draw(st.sets(st.sampled_from(sorted(self.open)))) if self.open else set()
        self.wanted |= asked
        self.crew.recall(asked)

    @rule(times=st.integers(1, 4))
    def turn(self, times: int) -> None:
        for _ in range(times):
            self.crew.turn(0)

    @rule()
    def turn_much_later(self) -> None:
        """What has not moved since the last turn stands still, for all that the crew can see."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(yadtq.runners.process, "STALE_S", 0.0)
            self.crew.turn(0)

    @rule()
    def replace(self) -> None:
        self.crew.replace()

    @rule(at=st.integers(0, 9))
    def read(self, at: int) -> None:
        if (child := self.pick(at, lambda _: True)) is not None:
            self.get_ready(child)

    @rule(at=st.integers(0, 9))
    def begin(self, at: int) -> None:
        if (child := self.pick(at, lambda _: True)) is not None:
            self.get_ready(child)
            if child.alive and child.waiting and len(child.running) < child.slots:
                self.enter(child)

    @rule(at=st.integers(0, 9), ran_ms=st.sampled_from([0, SLOW_MS]))
    def end(self, at: int, ran_ms: int) -> None:
        if (child := self.pick(at, lambda child: child.running)) is not None:
            child.end(ran_ms)

    @rule(at=st.integers(0, 9))
    def work(self, at: int) -> None:
        """Run all there is, and say nothing of it yet."""
        if (child := self.pick(at, lambda _: True)) is not None:
            self.get_ready(child)
            while child.alive and child.waiting and len(child.running) < child.slots:
                if self.enter(child):
                    child.end()

    @rule()
    def go_on_all(self) -> None:
        for child in self.living:
            self.go_on(child)
        self.crew.turn(0)

    @rule(at=st.integers(0, 9))
    def say(self, at: int) -> None:
        if (child := self.pick(at, lambda child: child.unsaid)) is not None:
            self.said |= set(child.say())

    @precondition(lambda self: len(self.children) < 60)
    @rule(at=st.integers(0, 9), ends=st.integers(0, 2), starts=st.integers(0, 2))
    def die(self, at: int, ends: int, starts: int) -> None:
        """A child starts some more, ends some without a word, and dies in the middle of the rest."""
        if (child := self.pick(at, lambda _: True)) is not None:
            self.get_ready(child)
            while child.alive and child.waiting and len(child.running) < child.slots and starts:
                self.enter(child)
                starts -= 1
            while child.alive and child.running and ends:
                child.end()
                ends -= 1
            self.died |= set(child.running)
            self.lost |= {done.number for done in child.unsaid}
            child.kill()

    @invariant()
    def the_books_are_right(self) -> None:
        in_children = sum(len(child.waiting) + len(child.running) for child in self.living)
        assert in_children <= len(self.open)
        for child in self.living:
            assert len(child.running) <= self.plan.slots
            assert len(child.waiting) + len(child.running) <= self.plan.slots + min(AHEAD, self.plan.ahead_most)

    def teardown(self) -> None:
        try:
            for _ in range(300):
                if not self.open:
                    break
                self.go_on_all()
            assert not self.open, "never answered"
        finally:
            for child in self.living:
                child.kill()

    def get_ready(self, child: FakeProcess) -> None:
        if not child.ready:
            child.hello()
        self.read_all(child)

    def read_all(self, child: FakeProcess) -> None:
        child.read()
        self.back |= child.returned & self.wanted
        child.returned.clear()

    def enter(self, child: FakeProcess) -> bool:
        """Let a child start what comes next; say whether it does."""
        number, started = child.start()
        assert started == self.allows(number), "it starts exactly as long as its lease allows"
        if not started:
            self.back |= child.returned & self.wanted
            child.returned.clear()
            return False
        assert number in self.open, "it was answered before"
        assert number not in self.said | self.lost, "it has ended under this claim"
        assert number not in self.back, "it was given back to who had asked for it"
        others = [other for other in self.living if other is not child and other.holds(number)]
        assert not others, "another child has it too"
        self.entered.add(number)
        return True

    def go_on(self, child: FakeProcess) -> None:
        """Do what a child does that is left alone."""
        self.get_ready(child)
        while child.alive and child.waiting and len(child.running) < child.slots:
            self.enter(child)
        while child.alive and child.running:
            child.end()
        if child.alive and child.unsaid:
            self.said |= set(child.say())


class SoloBooks(Books):
    plan = SOLO


TestBooks = Books.TestCase
TestSoloBooks = SoloBooks.TestCase
TestBooks.settings = TestSoloBooks.settings = settings(max_examples=100, stateful_step_count=60)
