"""A consumer that joins takes partitions whose tasks still run elsewhere: it waits for them and repeats nothing."""

import pytest
from drama import Stage, task

pytestmark = pytest.mark.real
RUNNING = ["running0", "running1"]
NEXT = [f"next{n}" for n in range(8)]


def test_what_runs_at_the_old_owner_runs_on_there_and_only_there(stage: Stage) -> None:
    stage.producer(*(task(name, "sleep", 4) for name in RUNNING), *(task(n, "add", 1, 1) for n in NEXT), partitions=2)
    first = stage.consumer("first")
    with stage.observed():
        for name in RUNNING:
            stage.until_running(name)
        second = stage.consumer("second")
        moved = second.says("partition ([01]) assigned")[1]
        second.says(f"running{moved} is held by first; waiting for its end or for first to be DEAD")
        assert stage.finals(RUNNING) == {}, "it was over before the partition moved: void"
        stage.until_final(RUNNING + NEXT)
        stage.until_committed({0: 5, 1: 5})
    second.says(f"running{moved} was finished before, not run again")
    account = stage.account().check(duplicated=set())
    assert {run.pid for run in account.runs if run.task_id in NEXT} == {first.pid, second.pid}
    assert {run.pid for run in account.runs if run.task_id in RUNNING} == {first.pid}
