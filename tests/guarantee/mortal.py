"""Workers that die at named points, one after the other, on the ground of one task whose verdict is known.

One invariant: the points are not listed here. They are what a worker passes at its ports, so a step that is added to
settle, to a firing or to the rebuild is a place to die the day it is added.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from books import Books
from obedient import ObedientRunner
from ports import Crashed, Faults, ToGroup, ToKafka, ToLedger, ToOutcomes
from stage import DELAYED_GROUP, Player, Stage

import yadtq.intake
import yadtq.scheduler
from waiting import ManualClock
from yadtq.attempt import Ending
from yadtq.codec import Undecodable, decode
from yadtq.ledger import TaskRecord
from yadtq.ledger.memory import MemoryLedger
from yadtq.rebuild import Rebuilder
from yadtq.runners import Sink
from yadtq.settings import Order
from yadtq.states import FINAL, State
from yadtq.telemetry import Telemetry

TURN_MS = 500
ROUNDS_MOST = 200  # of a worker that has all the time it needs: 100 s
ROUNDS_MORE = 6  # after the end, so that what comes behind a commit or a tombstone comes too
LONG_UNTIL_MS = ManualClock().now_ms() + 36_000  # longer than the engine leaves it at the head of its partition
KEYS = (b"l", b"k")  # of the tasks in partition 0 and 1, where Kafka puts them too
End = tuple[Ending, float | None]  # how a run ends, and the wait that it asks for


@dataclass(frozen=True)
class Ground:
    """Where a play is played."""

    order: Order = "unordered"
    partitions: int = 1
    neighbour: bool = False  # another worker has the second partition, lives on, and is the heir

    def __str__(self) -> str:
        return f"{self.order}-{self.partitions}{'-neighbour' * self.neighbour}"

    def key(self, partition: int = 0) -> bytes | None:
        return None if self.order == "unordered" else KEYS[partition]


PLAIN = Ground()


def returns(record: TaskRecord, now_ms: int) -> End | None:
    return Ending.RETURNED, None


def at_first(ending: Ending, after_s: float | None = None) -> Callable[[TaskRecord, int], End | None]:
    """Once in this way, as the ledger knows it, then well."""

    def end(record: TaskRecord, now_ms: int) -> End | None:
        once = record.failures or record.deaths or record.generation
        once = once or (ending is Ending.SNOOZED and record.attempts > 1)  # in place nothing else shows it
        return (Ending.RETURNED, None) if once else (ending, after_s)

    return end


def always(ending: Ending) -> Callable[[TaskRecord, int], End | None]:
    return lambda record, now_ms: (ending, None)


def long(record: TaskRecord, now_ms: int) -> End | None:
    return (Ending.RETURNED, None) if now_ms >= LONG_UNTIL_MS else None


def publish(stage: Stage, key: bytes | None) -> None:
    stage.publish("it", max_attempts=2, key=key)


SETTLED = frozenset({"claims", "accepts", "outcome", "seals", "commit"})
FIRED = frozenset({"envelope", "tombstone", "index places", "index put", "index look", "index remove"})
DEAD = SETTLED | {"dead letter"}


@dataclass(frozen=True)
class Verdict:
    """A task named `it`, how its runs end, what becomes of it, and which kinds of points it must pass."""

    end: Callable[[TaskRecord, int], End | None] = returns
    state: State | None = State.SUCCESS  # None: bytes without a task
    passes: frozenset[str] = SETTLED
    passes_unordered: frozenset[str] = frozenset()  # these too, where no order is kept
    publish: Callable[[Stage, bytes | None], None] = publish
    others: int = 1  # tasks behind it in its partition

    def passed_on(self, ground: Ground) -> frozenset[str]:
        unordered = self.passes_unordered if ground.order == "unordered" else frozenset()
        return self.passes | unordered - (FIRED if ground.neighbour else frozenset())


VERDICTS = {
    "success": Verdict(),
    "retry in place": Verdict(at_first(Ending.RAISED)),
    "retry scheduled": Verdict(at_first(Ending.RAISED, 20.0), passes_unordered=FIRED | {"retry"}),
    "failed": Verdict(always(Ending.RAISED), State.FAILED, DEAD),
    "runner died": Verdict(at_first(Ending.DIED)),
    "poison": Verdict(always(Ending.DIED), State.FAILED, DEAD),
    "rejected": Verdict(always(Ending.REJECTED), State.FAILED, DEAD),
    "snoozed": Verdict(at_first(Ending.SNOOZED, 20.0), passes_unordered=FIRED | {"retry"}),
    "undecodable": Verdict(
        state=None, passes=DEAD, publish=lambda stage, key: stage.publish_bytes(b"\xff no envelope", key=key)
    ),
    "unknown": Verdict(
        state=State.FAILED, passes=DEAD, publish=lambda stage, key: stage.publish("it", task_type="nosuch", key=key)
    ),
    "hand-off": Verdict(long, passes_unordered=frozenset({"envelope"}), others=4),
    "delay": Verdict(passes=SETTLED | FIRED, publish=lambda stage, key: stage.delay("it", by_ms=3_000, key=key)),
}


class Fuse(Faults):
    """Writes down every point that is passed, each with its number among its like. At one of them it may end the
    process, or let the call fail."""

    meanwhile: Callable[[], None]  # what other threads of the process do by then

    def __init__(self, books: Books) -> None:
        self.passed: list[str] = []
        self.burnt = False
        self._likes: Counter[str] = Counter()
        self._books = books
        self._crash_at = self._fail_at = ""

    def arm(self, crash_at: str, fail_at: str) -> None:
        """Count from here."""
        self.passed.clear()
        self._likes.clear()
        self._crash_at, self._fail_at = crash_at, fail_at

    def at(self, point: str) -> bool:
        if self.burnt:  # no `finally` of a process that is gone does anything
            raise Crashed(self._crash_at)
        when, _, what = point.partition(" ")
        like = f"{when} {what or 'look'}"
        self._likes[like] += 1
        name = f"{like} {self._likes[like]}"
        self.passed.append(name)
        if what != "commit":
            self.meanwhile()
        self._books.look()  # message by message, or what came first is not seen
        if name == self._crash_at:
            self.burnt = True
            raise Crashed(name)
        return name == self._fail_at

    @property
    def points(self) -> list[str]:
        """What was passed; of looks in a row, in which nothing moves, the first."""
        found: list[str] = []
        looked: set[str] = set()
        for point in self.passed:
            like = point.rpartition(" ")[0]
            if not like.endswith("look"):
                looked.clear()
            if like not in looked:
                looked.add(like)
                found.append(point)
        return found

    def kinds(self, when: str) -> set[str]:
        """Of the points before or after something: what of."""
        likes = {point.rpartition(" ")[0] for point in self.passed if point.startswith(f"{when} ")}
        return {kind for like in likes for kind in like.removeprefix(f"{when} ").split("+")}


class Mortal(Player):
    """A worker whose ports ask the fuse."""

    def __init__(
        self, stage: Stage, name: str, books: Books, fuse: Fuse, order: Order = "unordered", slots: int = 1
    ) -> None:
        self.name, self.books, self.fuse, self.order = name, books, fuse, order
        super().__init__(stage, name, slots, order, 1)
        fuse.meanwhile = self._commit
        self._member = self.consumer
        self.consumer = ToGroup(self._member, self.intake, fuse)  # type: ignore[assignment]
        self.delayed_consumer = stage.broker.consumer(stage.topics.delayed, DELAYED_GROUP, self.scheduler, 10_000)

    def _commit(self) -> None:
        """The intake has a thread of its own: between any two steps of the others it may commit what is closed."""
        self.intake._commit(self.consumer, list(self.intake.assignments), wait=False)

    def make_ledger(self) -> MemoryLedger:
        return ToLedger(self.stage.ledger, self.books, self.fuse)  # type: ignore[return-value]

    def make_producer(self) -> ToKafka:
        return ToKafka(self.stage.broker, self.stage.topics, self.fuse)

    def make_rebuilder(self, name: str, least_ms: int, telemetry: Telemetry) -> Rebuilder:
        broker = ToOutcomes(self.stage.broker, self.fuse)
        return Rebuilder(
            broker,  # type: ignore[arg-type]
            self.make_ledger(),
            self.make_producer(),
            self.stage.topics,
            name,
            least_ms,
            telemetry,
        )

    def make_runner(self, sink: Sink, slots: int, solo_slots: int) -> ObedientRunner:
        runner = ObedientRunner(sink, slots, solo_slots)
        in_order = self.order != "unordered"
        runner.on_start = lambda attempt: self.books.started(self.name, attempt, in_order=in_order)
        return runner

    def crash(self) -> None:
        self.books.fault_over(self.name)
        self.consumer = self._member
        super().crash()


class Play:
    """One verdict, on a stage of its own, and the lives of those who bring it about."""

    def __init__(self, verdict: Verdict, ground: Ground = PLAIN) -> None:
        self.verdict, self.ground = verdict, ground
        self.stage = Stage(ground.partitions)
        self.books = Books(self.stage)
        self.others = [f"other-{number}" for number in range(verdict.others)]
        self.neighbour: Mortal | None = None
        verdict.publish(self.stage, ground.key())
        self.stage.publish(*self.others, key=ground.key())
        for partition in range(1, ground.partitions):
            beside = [f"beside-{partition}-{number}" for number in range(2)]
            self.stage.publish(*beside, partition=partition, key=ground.key(partition))
            self.others += beside

    def enter(self, name: str) -> Mortal:
        """The next life, of a worker that has everything, or everything but what its neighbour has."""
        worker = Mortal(self.stage, name, self.books, Fuse(self.books), self.ground.order)
        if self.ground.neighbour and self.neighbour is None:
            self.neighbour = Mortal(self.stage, "neighbour", self.books, Fuse(self.books), self.ground.order)
        return worker

    def live(self, name: str, crash_at: str = "", fail_at: str = "") -> Mortal:
        """One life: to the point of its crash, or to the end of everything, perhaps with a call that fails."""
        worker = self.enter(name)
        worker.fuse.arm(crash_at, fail_at)
        workers = [worker, self.neighbour] if self.neighbour is not None else [worker]
        try:
            self.go(*workers)
            assert not crash_at, f"{name} never came to {crash_at!r}"
            assert not fail_at or fail_at in worker.fuse.passed, f"{name} never came to {fail_at!r}"
        except Crashed:
            self.bury(worker)
        return worker

    def bury(self, worker: Mortal) -> None:
        worker.crash()
        self.look()
        self.stage.lease_over(*([self.neighbour] if self.neighbour is not None else []))

    @property
    def over(self) -> bool:
        return self.books.finished and not self.books.delayed

    def go(self, *workers: Mortal) -> None:
        """Until all is over, and a little longer."""
        more = ROUNDS_MORE
        for _ in range(ROUNDS_MOST):
            for worker in workers:
                worker.turn(3)
                worker.runner.begin()
                self._end_runs(worker)
                worker.turn(3)
                worker.schedule(2)
            self.stage.clock.turn(TURN_MS)
            for worker in workers:
                worker.heartbeat.turn()
            self.look()
            more -= self.over
            if not more:
                return

    def _end_runs(self, worker: Mortal) -> None:
        for number, attempt in list(worker.runner.running.items()):
            (record,) = self.stage.ledger.records([attempt.task_id])
            if record is None:  # the ledger has lost it, and nobody has registered it yet
                continue
            end = self.end_of(attempt.task_id)(record, self.stage.clock.now_ms())
            if end is not None:
                worker.runner.end_one(number, end[0], after_s=end[1])

    def end_of(self, task_id: str) -> Callable[[TaskRecord, int], End | None]:
        return self.verdict.end if task_id == "it" else returns

    def look(self) -> None:
        """The commit passed nothing that is unfinished, but what something behind it carries."""
        self.books.look()
        for partition, log in enumerate(self.stage.broker.logs[self.stage.topics.tasks]):
            for record in log[: self.stage.committed(partition)]:
                try:
                    envelope = decode(record.value)
                except Undecodable:
                    continue  # the books look for its dead letter
                behind = log[record.offset + 1 :]
                copied = any(b'"%s"' % envelope.task_id.encode() in other.value for other in behind)
                known = self.stage.ledger.records([envelope.task_id])[0]
                done = known is not None and (known.final or known.generation > envelope.generation)
                if not done and not copied and envelope.task_id not in self.books.ended:
                    self.books.wrong(f"the commit passed {envelope.task_id}: {known}")

    def check(self) -> None:
        """What holds when everything is over."""
        self.books.close()
        assert not self.books.violations, self.books.violations
        expected = self.expected
        assert {task_id: outcome.state for task_id, outcome in self.books.ended.items()} == expected
        for task_id, state in expected.items():
            assert self.stage.record(task_id).shown is state
            ends = [outcome for outcome in self.stage.outcomes(task_id) if outcome.state in FINAL]
            assert len({outcome.fence for outcome in ends}) == 1, f"two outcomes of {task_id}: {ends}"
        self.check_dead_letters()
        for partition, log in enumerate(self.stage.broker.logs[self.stage.topics.tasks]):
            assert self.stage.committed(partition) == len(log)
        partitions = range(self.ground.partitions)
        assert not any(place.waits for place in self.stage.ledger.due.places(self.stage.topics.tasks, partitions))

    @property
    def expected(self) -> dict[str, State]:
        expected: dict[str, State] = dict.fromkeys(self.others, State.SUCCESS)
        return expected | ({"it": self.verdict.state} if self.verdict.state is not None else {})

    def check_dead_letters(self) -> None:
        letters = self.stage.lying_in(self.stage.topics.dead)
        assert bool(letters) == (self.verdict.state is not State.SUCCESS), letters


def story(make: Callable[[], Play], crash_points: Sequence[str]) -> Mortal:
    """Each life ends at its point, the last one lives to the end; all is well then. Return the last."""
    play = make()
    for number, point in enumerate(crash_points):
        play.live(f"life-{number}", point)
    last = play.live("last")
    play.check()
    return last


def fails_once(make: Callable[[], Play], fail_at: str) -> None:
    """A call does not get to its port, or its answer does not come back: the worker goes on, and all is well."""
    play = make()
    play.live("steady", fail_at=fail_at)
    play.check()


@contextmanager
def narrow() -> Iterator[None]:
    """A poll that finds nothing returns at once, and a few records are half of a window."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yadtq.intake, "POLL_S", 0.0)
        patch.setattr(yadtq.scheduler, "POLL_S", 0.0)
        patch.setattr(yadtq.intake, "WINDOW", 8)
        yield
