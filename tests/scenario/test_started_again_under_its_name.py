"""A worker is killed and started again under its name at once: its old claims end at once, and its tasks run again."""

import pytest
from drama import Stage

from yadtq.states import State

pytestmark = pytest.mark.real
DONE = [f"done{n}" for n in range(6)]
RUNNING = ["running0", "running1"]
WAITING = [f"waiting{n}" for n in range(6)]
AGAIN_S = 15.0


def test_what_it_ran_runs_again_and_nothing_else_does(stage: Stage) -> None:
    stage.create(partitions=2)
    options = ("--runners", "1", "--concurrency", "2", "--allowed", "10")  # a lease that is not waited for
    first = stage.worker("same", *options)
    stage.until(lambda: list(stage.partitions_of("same")) == [0, 1])
    with stage.observed():
        stage.submit(*((name, "add", 1, 1) for name in DONE))
        stage.until_final(DONE)
        stage.submit(*((name, "nap", 3.0) for name in RUNNING), *((name, "nap", 0.1) for name in WAITING))
        before = [stage.until_running(name) for name in RUNNING]
        killed_s = first.kill()
        second = stage.worker("same", *options)
        for name in RUNNING:
            again = stage.until_running(name, attempt=2)
            assert again.start_ms / 1000 - killed_s < AGAIN_S
        assert set(stage.until_final([*RUNNING, *WAITING]).values()) == {State.SUCCESS}
        stage.until_drained()
        second.interrupt()
        second.leaves(0)
    account = stage.account().check(duplicated=set(RUNNING))
    assert account.counted.keys() >= {*RUNNING}
    assert not {run.pid for run in before} & {account.counted[name].pid for name in RUNNING}
