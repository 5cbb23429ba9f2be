"""A worker dies at every step of a rebuild, after every kind of loss, and so does its heir: the next one opens the
ledger, nothing is lost, and nothing that Kafka knows to be over runs again."""

import random
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from books import Books
from mortal import Fuse, Ground, Mortal, Play, Verdict, always, at_first, fails_once, long, narrow, returns, story
from stage import Stage

from yadtq.attempt import Ending
from yadtq.layout import HEADER_TASK
from yadtq.ledger import TaskRecord
from yadtq.states import State

READ = frozenset({"take", "read", "restore", "open", "drop"})
REBUILT = READ | {"register", "allot", "marker"}
# What the tasks of each partition are at when the ledger is lost, and what becomes of them.
TASKS = {
    "done": (returns, State.SUCCESS),
    "bad": (always(Ending.RAISED), State.FAILED),
    "later": (at_first(Ending.RAISED, 20.0), State.SUCCESS),  # its retry waits for a time
    "runs": (long, State.SUCCESS),
    "accepted": (returns, State.SUCCESS),  # and not yet in Kafka
    "waits": (returns, State.SUCCESS),
}
LOSSES = ("wiped", "rolled back", "forgotten")
GROUNDS = [Ground("unordered", 1), Ground("unordered", 2), Ground("unordered", 2, neighbour=True)]
SAMPLE = 4  # points of each loss on each ground, in the quick run


@pytest.fixture(autouse=True)
def _narrow() -> Iterator[None]:
    with narrow():
        yield


class Loss(Play):
    """A queue in the middle of its work, whose ledger is lost: its first life begins with that."""

    def __init__(self, loss: str, ground: Ground) -> None:
        self.loss, self.ground = loss, ground
        self.verdict, self.neighbour = Verdict(), None
        self.stage = Stage(ground.partitions, opened=False)
        opener = self.stage.player("opener")
        assert opener.rebuilder.turn()
        opener.crash()
        self.books = Books(self.stage)
        self.all = [f"{name}-{partition}" for partition in range(ground.partitions) for name in TASKS]
        self._publish([task_id for task_id in self.all if not task_id.startswith("waits")])
        self.first = [self._worker("life-0")] + ([self._worker("neighbour")] if ground.neighbour else [])
        kept = self.stage.ledger.snapshot()
        self._work_halfway()
        self._publish([task_id for task_id in self.all if task_id.startswith("waits")])
        getattr(self, f"_is_{loss.replace(' ', '_')}")(kept)
        if ground.neighbour:
            self.neighbour = self.first.pop()
            self.neighbour.rebuilds = False  # as long as the other lives

    def _worker(self, name: str) -> Mortal:
        return Mortal(self.stage, name, self.books, Fuse(self.books), slots=16)

    def _publish(self, task_ids: list[str]) -> None:
        for task_id in task_ids:
            most = 1 if task_id.startswith("bad") else 3
            self.stage.publish(task_id, partition=int(task_id[-1]), max_attempts=most, queued_at_ms=1)

    def _work_halfway(self) -> None:
        for worker in self.first * 2:
            worker.turn(3)
            worker.schedule(2)
        for worker in self.first:
            worker.runner.begin()
            self._end(worker, ("done", "bad", "later"))
            worker.turn(5)
            worker.schedule(3)
            worker.producer.hold = True
            self._end(worker, ("accepted",))
            worker.turn(1)
        self.look()
        records = {name: self.stage.record(f"{name}-0") for name in TASKS if name != "waits"}
        assert [record.status for record in records.values()] == [
            State.SUCCESS, State.FAILED, State.SCHEDULED, State.PROCESSING, State.SUCCESS,
        ]  # fmt: skip
        assert [record.sealed for record in records.values()] == [True, True, False, False, False]

    def _end(self, worker: Mortal, names: tuple[str, ...]) -> None:
        for number, attempt in list(worker.runner.running.items()):
            if attempt.task_id.startswith(names):
                end = self.end_of(attempt.task_id)(self.stage.record(attempt.task_id), self.stage.clock.now_ms())
                assert end is not None
                worker.runner.end_one(number, end[0], after_s=end[1])

    def _is_wiped(self, kept: object) -> None:
        self.stage.ledger.wipe()
        self.books.ledger_lost()

    def _is_rolled_back(self, kept: object) -> None:
        self.stage.ledger.roll_back(kept)  # type: ignore[arg-type]
        self.books.ledger_lost()

    def _is_forgotten(self, kept: object) -> None:
        """All ends; a day later its records have expired, and the group's offsets are gone."""
        for worker in self.first:
            worker.producer.let_go()
        self.go(*self.first)
        self.check()
        self.stage.clock.turn(90_000_000)
        self.stage.broker.offsets.clear()
        self.books.commits_lost()
        assert self.stage.ledger.records(self.all) == [None] * len(self.all)
        for worker in self.first:
            worker.crash()
        self.first = [self._worker(f"again-{number}") for number, _ in enumerate(self.first)]

    def enter(self, name: str) -> Mortal:
        return self.first.pop() if self.first else self._worker(name)

    def go(self, *workers: Mortal) -> None:
        for worker in workers:
            worker.producer.let_go()  # what was on its way when the ledger was lost arrives
        super().go(*workers)

    def bury(self, worker: Mortal) -> None:
        if self.neighbour is not None:
            self.neighbour.rebuilds = True
        super().bury(worker)

    def end_of(self, task_id: str) -> Callable[[TaskRecord, int], tuple[Ending, float | None] | None]:
        return TASKS[task_id.partition("-")[0]][0]

    def look(self) -> None:
        """The ledger has forgotten what is over; what carries a task is known by the books alone."""
        self.books.look()

    @property
    def expected(self) -> dict[str, State]:
        return {task_id: TASKS[task_id.partition("-")[0]][1] for task_id in self.all}

    def check_dead_letters(self) -> None:
        letters = {record.headers[HEADER_TASK].decode() for record in self.stage.lying_in(self.stage.topics.dead)}
        assert letters == {task_id for task_id in self.all if task_id.startswith("bad")}


@cache
def points(loss: str, ground: Ground) -> list[str]:
    """What a worker passes from the loss on until the ledger is open, where nothing happens to it.

    Lost writes are noticed by those who saw them answered. Who is alone and dies before its next word to the ledger
    takes that knowledge along: its points begin where it has noticed.
    """
    with narrow():
        passed = Loss(loss, ground).live("life-0").fuse.points
    alone = loss == "rolled back" and not ground.neighbour
    begin = passed.index("before register 1") if alone else 0
    return passed[begin : passed.index("after drop 1") + 1]


def steps(passed: list[str]) -> list[str]:
    """Those from the last time that the ledger is asked for the errand, which is given now."""
    end = passed.index("after drop 1") + 1
    takes = [at for at, point in enumerate(passed[:end]) if point.startswith("before take")]
    return passed[takes[-1] : end]


CASES = [(loss, ground) for loss in LOSSES for ground in GROUNDS]
cases = pytest.mark.parametrize(("loss", "ground"), CASES, ids=[f"{loss}-{ground}" for loss, ground in CASES])


@cases
def test_a_rebuild_without_a_fault_passes_every_step(loss: str, ground: Ground) -> None:
    play = Loss(loss, ground)
    fuse = play.live("life-0").fuse
    play.check()
    for when in ("before", "after"):
        missing = (READ if loss == "forgotten" else REBUILT) - fuse.kinds(when)
        assert not missing, f"no point {when} {missing}"


@cases
def test_a_crash_at_a_step_of_a_rebuild_is_followed_by_another_rebuild(loss: str, ground: Ground, seed: int) -> None:
    """At some of the steps; `make soak` dies at all of them."""
    for point in random.Random(seed).sample(steps(points(loss, ground)), SAMPLE):
        story(lambda: Loss(loss, ground), [point])


@cases
def test_a_crash_in_the_rebuild_after_a_crash_is_followed_by_another(loss: str, ground: Ground, seed: int) -> None:
    """At some pairs of steps; `make soak` dies at all of them."""
    dice = random.Random(seed)
    first = dice.choice(steps(points(loss, ground)))
    again = story(lambda: Loss(loss, ground), [first]).fuse.points
    story(lambda: Loss(loss, ground), [first, dice.choice(again)])


@cases
def test_a_call_of_a_rebuild_that_fails_is_made_again(loss: str, ground: Ground, seed: int) -> None:
    """At some of the steps; `make soak` fails at all points."""
    for point in random.Random(seed).sample(steps(points(loss, ground)), 2):
        fails_once(lambda: Loss(loss, ground), point)


@pytest.mark.soak
@pytest.mark.timeout(600)
@cases
def test_any_call_that_fails_until_the_ledger_is_open_is_made_again(loss: str, ground: Ground) -> None:
    for point in points(loss, ground):
        fails_once(lambda: Loss(loss, ground), point)


@pytest.mark.soak
@pytest.mark.timeout(600)
@cases
def test_a_crash_at_any_point_until_the_ledger_is_open_is_followed_by_a_rebuild(loss: str, ground: Ground) -> None:
    for point in points(loss, ground):
        story(lambda: Loss(loss, ground), [point])


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ground", GROUNDS, ids=str)
@pytest.mark.parametrize("loss", ["wiped", "forgotten"])
def test_a_second_crash_at_any_step_of_the_next_rebuild_is_followed_by_another(loss: str, ground: Ground) -> None:
    for first in steps(points(loss, ground)):
        again = story(lambda: Loss(loss, ground), [first]).fuse.points
        for second in steps(again) if "after drop 1" in again else []:  # it was open already
            story(lambda: Loss(loss, ground), [first, second])
