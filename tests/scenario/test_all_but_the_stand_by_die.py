"""Two consumers and a stand-by: when all but the stand-by die, it finishes everything and repeats nothing finished."""

import pytest
from drama import Stage, task

from yadtq.states import State

pytestmark = pytest.mark.real
TASKS = [f"t{n}" for n in range(18)]


def test_the_stand_by_finishes_what_the_dead_have_left(stage: Stage) -> None:
    producer = stage.producer(partitions=3)
    failing = stage.consumer("failing", fail_after=2)
    killed = stage.consumer("killed")
    stand_by = stage.stand_by("stand-by")
    owners = {failing: "assigned", killed: "assigned", stand_by: "takes over"}
    stage.until(lambda: all(actor.said(f"partition [0-2] {w}|{w} partition") for actor, w in owners.items()))
    with stage.observed():
        producer.write(*(task(name, "sleep", 0.4) for name in TASKS), "end")
        failing.leaves(3)
        killed.says("t[0-9]+ starts")
        killed.kill()
        stand_by.says("taken over from failing|takes over partition")
        stand_by.leaves(0)
        producer.leaves(0)

    producer.says("the queue has ended: 18 published, 0 skipped; 18 SUCCESS, 0 FAILED")
    account = stage.account().check()
    assert account.states == dict.fromkeys(TASKS, State.SUCCESS)
    died = {run.task_id for run in account.runs if run.pid in (failing.pid, killed.pid) and run.end_ms is None}
    assert died != set(), "nobody died in the middle of a task: void"
    finished = {*failing.said(r": (\w+) SUCCESS"), *killed.said(r": (\w+) SUCCESS")}
    assert finished & set(stand_by.said(r": (\w+) starts")) == set()
    assert account.duplicated >= died
    assert account.duplicated & finished == set()
    taken = {name for name in TASKS if stand_by.said(rf"{name} taken over from (failing|killed)")}
    assert taken, "nothing was taken over: void"
