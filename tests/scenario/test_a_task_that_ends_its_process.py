"""A task that never ends is ended, a task that takes its process with it runs alone, and the others notice nothing."""

import pytest
from drama import Stage

from yadtq.states import State

pytestmark = pytest.mark.real


def test_an_endless_task_and_a_poisonous_one_end_failed_and_cost_their_neighbours_nothing(stage: Stage) -> None:
    stage.create(partitions=2)
    worker = stage.worker("own", "--runners", "1", "--concurrency", "4", "--solo", "2")
    worker.says("assigned partition 1")
    stage.submit(("endless", "spin"), ("poison", "crash"))
    states = stage.until_final(["poison"])
    others = [(f"n{n}", "nap", 0.2) for n in range(40)]
    stage.submit(*others)
    states |= stage.until_final(["endless", *(task_id for task_id, *_ in others)])
    assert {task_id for task_id, state in states.items() if state is not State.SUCCESS} == {"endless", "poison"}
    endless, poison = stage.app.ledger.records(["endless", "poison"])
    assert endless is not None
    assert poison is not None
    assert (endless.attempts, endless.error_log) == (3, "ended by its time limit of 1 s")
    assert poison.attempts == 3
    assert "was ended by SIGABRT (signal 6)" in (poison.error_log or "")
    told = "\n".join(worker.lines)
    assert "has a time limit of 1 s" in told
    assert told.count("runner_died") == 3
