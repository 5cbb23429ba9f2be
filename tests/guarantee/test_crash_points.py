"""A worker dies at every step of settle, for every verdict; its heir finishes, and nothing is lost, doubled or changed.

One invariant: the steps are not listed here. They are the points that a worker without a fault passes at its ports, so
a step that is added to settle is a place to die the day it is added; `Verdict.passes` says what must be among them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import pytest
from books import Books
from ports import Crashed, Faults, ToGroup, ToKafka, ToLedger
from stage import DELAYED_GROUP, ObedientRunner, Player, Stage

import yadtq.intake
import yadtq.scheduler
from waiting import ManualClock
from yadtq.attempt import Ending
from yadtq.codec import Undecodable, decode
from yadtq.ledger import TaskRecord
from yadtq.ledger.memory import MemoryLedger
from yadtq.runners import Sink
from yadtq.states import FINAL, State

TURN_MS = 500
ROUNDS_MOST = 200  # of a worker that has all the time it needs: 100 s
ROUNDS_MORE = 6  # after the end, so that what comes behind a commit or a tombstone comes too
LONG_UNTIL_MS = ManualClock().now_ms() + 36_000  # longer than the engine leaves it at the head of its partition
End = tuple[Ending, float | None]  # how a run ends, and the wait that it asks for
SETTLED = frozenset({"claims", "accepts", "outcome", "seals", "commit"})
FIRED = frozenset({"envelope", "tombstone", "index places", "index put", "index look", "index remove"})


def returns(record: TaskRecord, now_ms: int) -> End | None:
    return Ending.RETURNED, None


def at_first(ending: Ending, after_s: float | None = None) -> Callable[[TaskRecord, int], End | None]:
    """Once in this way, as the ledger knows it, then well."""

    def end(record: TaskRecord, now_ms: int) -> End | None:
        once = record.failures or record.deaths or record.generation
        return (Ending.RETURNED, None) if once else (ending, after_s)

    return end


def always(ending: Ending) -> Callable[[TaskRecord, int], End | None]:
    return lambda record, now_ms: (ending, None)


def long(record: TaskRecord, now_ms: int) -> End | None:
    return (Ending.RETURNED, None) if now_ms >= LONG_UNTIL_MS else None


def publish(stage: Stage) -> None:
    stage.publish("it", max_attempts=2)


@dataclass(frozen=True)
class Verdict:
    """A task named `it`, how its runs end, what becomes of it, and which kinds of points it must pass."""

    end: Callable[[TaskRecord, int], End | None] = returns
    state: State | None = State.SUCCESS  # None: bytes without a task
    passes: frozenset[str] = SETTLED
    publish: Callable[[Stage], None] = publish
    others: int = 1  # tasks behind it in its partition


DEAD = SETTLED | {"dead letter"}
LATER = SETTLED | FIRED | {"retry"}
VERDICTS = {
    "success": Verdict(),
    "retry in place": Verdict(at_first(Ending.RAISED)),
    "retry scheduled": Verdict(at_first(Ending.RAISED, 20.0), passes=LATER),
    "failed": Verdict(always(Ending.RAISED), State.FAILED, DEAD),
    "runner died": Verdict(at_first(Ending.DIED)),
    "poison": Verdict(always(Ending.DIED), State.FAILED, DEAD),
    "rejected": Verdict(always(Ending.REJECTED), State.FAILED, DEAD),
    "snoozed": Verdict(at_first(Ending.SNOOZED, 20.0), passes=LATER),
    "undecodable": Verdict(state=None, passes=DEAD, publish=lambda stage: stage.publish_bytes(b"\xff no envelope")),
    "unknown": Verdict(state=State.FAILED, passes=DEAD, publish=lambda stage: stage.publish("it", task_type="nosuch")),
    "hand-off": Verdict(long, passes=SETTLED | {"envelope"}, others=4),
    "delay": Verdict(passes=SETTLED | FIRED, publish=lambda stage: stage.delay("it", by_ms=3_000)),
}


class Fuse(Faults):
    """Writes down every point that is passed, each with its number among its like; may end the process at one."""

    meanwhile: Callable[[], None]  # what other threads of the process do by then

    def __init__(self, books: Books, crash_at: str = "") -> None:
        self.passed: list[str] = []
        self._books = books
        self._crash_at = crash_at

    def at(self, point: str) -> bool:
        when, _, what = point.partition(" ")
        like = f"{when} {what or 'look'}"
        name = f"{like} {1 + sum(passed.rpartition(' ')[0] == like for passed in self.passed)}"
        self.passed.append(name)
        if what != "commit":
            self.meanwhile()
        self._books.look()  # message by message, or what came first is not seen
        if name == self._crash_at:
            raise Crashed(name)
        return False


class Mortal(Player):
    """A worker whose ports ask the fuse."""

    def __init__(self, stage: Stage, name: str, books: Books, fuse: Fuse) -> None:
        self.name, self.books, self.fuse = name, books, fuse
        super().__init__(stage, name, 1, "unordered", 1)
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

    def make_runner(self, sink: Sink, slots: int, solo_slots: int) -> ObedientRunner:
        runner = ObedientRunner(sink, slots, solo_slots)
        runner.on_start = lambda attempt: self.books.started(self.name, attempt, in_order=False)
        return runner

    def crash(self) -> None:
        self.books.fault_over(self.name)
        self.consumer = self._member
        super().crash()


class Play:
    """One verdict, on a stage of its own."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.stage = Stage()
        self.books = Books(self.stage)
        self.others = [f"other-{number}" for number in range(verdict.others)]
        verdict.publish(self.stage)
        self.stage.publish(*self.others)

    def worker(self, name: str, crash_at: str = "") -> Mortal:
        return Mortal(self.stage, name, self.books, Fuse(self.books, crash_at))

    @property
    def over(self) -> bool:
        return self.books.finished and not self.books.delayed

    def go(self, worker: Mortal) -> None:
        """Until all is over, and a little longer."""
        more = ROUNDS_MORE
        for _ in range(ROUNDS_MOST):
            worker.turn(3)
            worker.runner.begin()
            self._end_runs(worker)
            worker.turn(3)
            worker.schedule(2)
            self.stage.clock.turn(TURN_MS)
            worker.heartbeat.turn()
            self.look()
            more -= self.over
            if not more:
                return

    def _end_runs(self, worker: Mortal) -> None:
        for number, attempt in list(worker.runner.running.items()):
            end = self.verdict.end if attempt.task_id == "it" else returns
            how = end(self.stage.record(attempt.task_id), self.stage.clock.now_ms())
            if how is not None:
                worker.runner.end_one(number, how[0], after_s=how[1])

    def look(self) -> None:
        """The commit passed nothing that is unfinished, but what something behind it carries."""
        self.books.look()
        log = self.stage.broker.logs[self.stage.topics.tasks][0]
        for record in log[: self.stage.committed()]:
            try:
                envelope = decode(record.value)
            except Undecodable:
                continue  # the books look for its dead letter
            behind = log[record.offset + 1 :]
            copied = any(b'"%s"' % envelope.task_id.encode() in other.value for other in behind)
            known = self.stage.ledger.records([envelope.task_id])[0]
            done = known is not None and (known.final or known.generation > envelope.generation)
            if not done and not copied:
                self.books.wrong(f"the commit passed {envelope.task_id}: {known}")

    def check(self) -> None:
        """What holds when everything is over."""
        self.books.close()
        assert not self.books.violations, self.books.violations
        expected: dict[str, State] = dict.fromkeys(self.others, State.SUCCESS)
        if self.verdict.state is not None:
            expected["it"] = self.verdict.state
        assert {task_id: outcome.state for task_id, outcome in self.books.ended.items()} == expected
        for task_id, state in expected.items():
            assert self.stage.record(task_id).shown is state
            ends = [outcome for outcome in self.stage.outcomes(task_id) if outcome.state in FINAL]
            assert len({outcome.fence for outcome in ends}) == 1, f"two outcomes of {task_id}: {ends}"
        letters = self.stage.lying_in(self.stage.topics.dead)
        assert bool(letters) == (self.verdict.state is not State.SUCCESS), letters
        assert self.stage.committed() == len(self.stage.lying_in(self.stage.topics.tasks))
        assert self.stage.ledger.due.places(self.stage.topics.tasks, [0])[0].waits == 0


@contextmanager
def narrow() -> Iterator[None]:
    """A poll that finds nothing returns at once, and a few records are half of a window."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yadtq.intake, "POLL_S", 0.0)
        patch.setattr(yadtq.scheduler, "POLL_S", 0.0)
        patch.setattr(yadtq.intake, "WINDOW", 8)
        yield


@pytest.fixture(autouse=True)
def _narrow() -> Iterator[None]:
    with narrow():
        yield


@cache
def points(name: str) -> list[str]:
    """What a worker passes to which nothing happens; of looks in a row, in which nothing moves, the first."""
    with narrow():
        play = Play(VERDICTS[name])
        worker = play.worker("dying")
        play.go(worker)
    found: list[str] = []
    looked: set[str] = set()
    for point in worker.fuse.passed:
        like = point.rpartition(" ")[0]
        if not like.endswith("look"):
            looked.clear()
        if like not in looked:
            looked.add(like)
            found.append(point)
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "point" in metafunc.fixturenames:
        metafunc.parametrize(("name", "point"), [(name, point) for name in VERDICTS for point in points(name)])


@pytest.mark.parametrize("name", VERDICTS)
def test_a_worker_without_a_fault_passes_every_step(name: str) -> None:
    play = Play(VERDICTS[name])
    play.go(play.worker("dying"))
    play.check()
    for when in ("before ", "after "):
        likes = [point.removeprefix(when).rpartition(" ")[0] for point in points(name) if point.startswith(when)]
        missing = play.verdict.passes - {kind for like in likes for kind in like.split("+")}
        assert not missing, f"no point {when}{missing}"


def test_a_crash_at_any_point_loses_nothing_and_changes_no_outcome(name: str, point: str) -> None:
    play = Play(VERDICTS[name])
    dying = play.worker("dying", point)
    with pytest.raises(Crashed):
        play.go(dying)
    dying.crash()
    play.look()
    ended = set(play.books.ended)
    play.stage.lease_over()
    heir = play.worker("heir")
    play.go(heir)
    play.check()
    ran = {task_id for task_id, _ in heir.runner.history}
    assert not ran & ended, "what had an outcome in Kafka ran again"
