"""A consumer killed in mid-task: its tasks run again elsewhere, nothing is lost, and nothing finished runs again."""

import pytest
from drama import Stage, task

from yadtq.states import State

pytestmark = pytest.mark.real
QUICK = [f"quick{n}" for n in range(6)]
VICTIMS = ["victim0", "victim1"]
LATER = [f"later{n}" for n in range(6)]
RECOVERY_S = 15.0


def test_a_killed_consumers_tasks_run_again_elsewhere_and_only_those(stage: Stage) -> None:
    producer = stage.producer(*(task(name, "add", 1, "2") for name in QUICK), partitions=2)
    first = stage.consumer("first")
    assert set(stage.until_final(QUICK).values()) == {State.SUCCESS}
    producer.write(*(task(name, "sleep", 2) for name in VICTIMS), *(task(name, "sub", 5, 3) for name in LATER))
    with stage.observed():
        for victim in VICTIMS:
            stage.until_running(victim)
        killed_s = first.kill()
        second = stage.consumer("second")
        for victim in VICTIMS:
            second.says(f"{victim} taken over from first")
            again = stage.until_running(victim, attempt=2)
            assert again.start_ms / 1000 - killed_s < RECOVERY_S
        assert set(stage.until_final([*VICTIMS, *LATER]).values()) == {State.SUCCESS}
        stage.until_committed({0: 7, 1: 7})

    account = stage.account().check(duplicated=set(VICTIMS))
    assert len(account.published) == 14
    for victim in VICTIMS:
        died, survived = account.of_task(victim)
        assert (died.pid, died.attempt, died.end_ms) == (first.pid, 1, None)
        assert (survived.pid, survived.attempt) == (second.pid, 2)
        assert account.attempts[victim] == stage.attempts(victim) == 2
    assert all(account.attempts[name] == 1 for name in QUICK + LATER)
