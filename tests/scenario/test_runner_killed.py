"""A killed runner's task runs again in the same worker, at once and without a rebalance, and disturbs nobody."""

import os
import signal

import pytest
from drama import Stage

from yadtq.states import State

pytestmark = pytest.mark.real


def test_a_killed_runner_costs_its_own_task_one_attempt_and_nothing_else(stage: Stage) -> None:
    stage.create(partitions=2)
    worker = stage.worker("own", "--runners", "2", "--concurrency", "1")
    worker.says("assigned partition 1")
    stage.submit(("victim", "nap", 3.0), ("neighbour", "nap", 3.0))
    neighbour, victim = stage.until_running("neighbour"), stage.until_running("victim")
    assert victim.pid not in (worker.pid, neighbour.pid)
    os.kill(victim.pid, signal.SIGKILL)
    again = stage.until_running("victim", attempt=2)
    assert again.pid not in (victim.pid, worker.pid)
    states = stage.until_final(["victim", "neighbour"])
    assert states == {"victim": State.SUCCESS, "neighbour": State.SUCCESS}
    stage.account().check(duplicated={"victim"})
    worker.signal(signal.SIGTERM)
    worker.leaves(0)
    told = "\n".join(worker.lines)
    assert "runner_died" in told
    assert told.count("assigned partition") == 2, "there was a rebalance"
