"""Steps of a trace: what one worker, the group or a store does, one at a time, so that a test can play any order.

One invariant: a step does what its name says and nothing beside it; no time passes but where a lease or a barrier ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from stage import GROUP, Player, Stage

import yadtq.intake
from yadtq.attempt import Ending
from yadtq.broker import TopicPartition
from yadtq.engine import LONG_S
from yadtq.states import State


def opened(partitions: int = 1) -> Stage:
    """A queue that has been open: its outcomes begin with a marker, so a wiped ledger waits for its barrier."""
    stage = Stage(partitions, opened=False)
    opener = stage.player("opener")
    assert opener.rebuilder.turn()
    opener.crash()
    return stage


def joins(stage: Stage, name: str, slots: int = 16) -> Player:
    return stage.player(name, slots, order="unordered")


def one_runs(partitions: int = 1, max_attempts: int = 3) -> tuple[Stage, Player]:
    """The same, and w0 runs t, the only task in it."""
    stage = opened(partitions)
    stage.publish("t", max_attempts=max_attempts)
    w0 = joins(stage, "w0")
    assert claims(w0) == ["t"]
    starts(w0)
    return stage, w0


# -- a worker ----------------------------------------------------------------------------------------------------------


def claims(worker: Player) -> list[str]:
    """Poll, and ask the ledger; return what is given to the runner by now and has not started."""
    worker.turn(2)
    return [attempt.task_id for attempt in worker.runner.waiting.values()]


def starts(worker: Player) -> None:
    worker.runner.begin()


def accepted(worker: Player, ending: Ending = Ending.RETURNED, after_s: float | None = None) -> None:
    """What runs ends, and the ledger is told; nothing of it is in Kafka yet."""
    worker.producer.hold = True
    for number in list(worker.runner.running):
        worker.runner.end_one(number, ending, after_s=after_s)
    worker.engine.step(0.0)


def produced(worker: Player) -> None:
    """Kafka takes what is to be written, the ledger seals it, and its record is closed."""
    worker.producer.let_go()
    for _ in range(4):
        worker.engine.step(0.0)


def claimed_again(worker: Player) -> None:
    """What runs fails, waits for its time in the delayed topic, and is claimed when that has come."""
    accepted(worker, Ending.RAISED, after_s=5.0)
    produced(worker)
    worker.schedule(2)
    lives_for(worker, 5)
    worker.schedule()  # fires
    assert claims(worker) == ["t"]
    worker.schedule(2)  # the tombstone after the firing


def commits(worker: Player) -> None:
    worker.intake._commit(worker.consumer, list(worker.intake.assignments), wait=False)


def beats(worker: Player) -> None:
    """Its threads have moved, and did nothing."""
    worker.intake.turns += 1
    worker.engine.turns += 1
    worker.heartbeat.turn()


def lives_for(worker: Player, seconds: float) -> None:
    """Time passes for a worker whose lease holds."""
    for _ in range(int(seconds) // 3 + 1):
        worker.stage.clock.turn(3_000)
        beats(worker)


def copied_to_the_tail(worker: Player) -> None:
    """What runs has run for so long that a copy of its record takes its place."""
    lives_for(worker, LONG_S)
    worker.engine.step(0.0)
    worker.engine.step(0.0)
    assert "handed_off" in worker.kinds()


@contextmanager
def small_window() -> Iterator[None]:
    """A single record is half of a window, so that a task that runs for long is handed off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yadtq.intake, "WINDOW", 2)
        yield


# -- the group ---------------------------------------------------------------------------------------------------------


def _first_in_group(worker: Player) -> None:
    """Partition 0 is to be this worker's."""
    members = worker.stage.broker.members[worker.stage.topics.tasks, GROUP]
    members.sort(key=lambda member: member is not worker.consumer)


def taken(slow: Player, other: Player) -> None:
    """Partition 0 goes to another, and who had it has not heard of that."""
    _first_in_group(other)
    del slow.consumer.positions[TopicPartition(slow.stage.topics.tasks, 0)]


def revoked(worker: Player, other: Player) -> None:
    """Partition 0 goes to another, in good order: whoever had it commits and gives it up. The ledger has not heard."""
    _first_in_group(other)
    worker.intake.turn(worker.consumer)


def dead(slow: Player, *others: Player) -> None:
    """A worker that stands still is DEAD by now; the others go on."""
    stage = slow.stage
    for _ in range(4):
        stage.clock.turn(3_000)
        for other in others:
            beats(other)
    assert {worker.name: worker.status for worker in stage.ledger.workers()}[slow.identity.name] == "DEAD"


def reborn(worker: Player) -> None:
    """It hears that it was DEAD, and begins a new incarnation."""
    before = worker.identity.incarnation
    beats(worker)
    beats(worker)
    assert worker.identity.incarnation != before


# -- the ledger --------------------------------------------------------------------------------------------------------


def registers(worker: Player) -> None:
    """It hears that the ledger waits, and says what it runs."""
    worker.rebuilds = False
    worker.stage.clock.turn(1_000)
    beats(worker)
    worker.engine.step(0.0)
    assert "waiting_for_ledger" in worker.kinds()


def rebuilt(stage: Stage, *workers: Player) -> None:
    """The barrier ends, and one of the workers reads in what Kafka has."""
    for _ in range(60):
        stage.clock.turn(250)
        for worker in workers:
            beats(worker)
            worker.engine.step(0.0)
        if workers[0].rebuilder.turn() and any("rebuilt" in worker.kinds() for worker in workers):
            stage.clock.turn(250)  # who was told to wait asks again
            return
    raise AssertionError("the ledger was not opened again")


def finished(stage: Stage, *workers: Player, ids: tuple[str, ...] = ("t",), end: State = State.SUCCESS) -> None:
    """Everybody works on until all is over; then each task has one end, and every offset is committed."""
    for worker in workers:
        worker.producer.let_go()
        worker.rebuilds = True
    for _ in range(60):
        stage.clock.turn(500)
        for worker in workers:
            worker.heartbeat.turn()
            worker.turn(2)
            worker.schedule(3)
            worker.runner.begin()
            worker.runner.end()
            worker.turn(2)
    for task_id in ids:
        assert (stage.record(task_id).shown, task_id) == (end, task_id)
        assert len({outcome.fence for outcome in stage.ends(task_id)}) == 1
    for partition, log in enumerate(stage.broker.logs[stage.topics.tasks]):
        assert stage.committed(partition) == len(log)
