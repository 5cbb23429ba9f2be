"""A killed runner's tasks run again in the same worker, at once and without a rebalance, and disturb nobody."""

import fcntl
import os
import signal
from pathlib import Path

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


def test_all_tasks_of_a_killed_runner_run_again_at_the_same_time_and_none_waits_for_another(
    stage: Stage, tmp_path: Path
) -> None:
    stage.create(partitions=2)
    worker = stage.worker("own", "--runners", "1", "--concurrency", "16", "--solo", "1")
    worker.says("assigned partition 1")
    victims = {f"v{n}" for n in range(16)}
    with (tmp_path / "gate").open("w") as gate:  # none ends before it is closed
        fcntl.flock(gate, fcntl.LOCK_EX)
        stage.submit(*((task_id, "wait", gate.name) for task_id in victims))
        stage.until(lambda: {run.task_id for run in stage.runs()} == victims)
        (killed,) = {run.pid for run in stage.runs()}
        os.kill(killed, signal.SIGKILL)
        stage.until(lambda: {run.task_id for run in stage.runs() if run.attempt == 2} == victims)
        again = {run.pid for run in stage.runs() if run.attempt == 2}
        assert len(again - {killed}) == 16, "each is alone in its process"
    assert set(stage.until_final(victims).values()) == {State.SUCCESS}
    stage.account().check(duplicated=victims)
    assert len(worker.said("assigned partition")) == 2, "there was a rebalance"
