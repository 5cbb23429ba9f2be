"""What waits for a time, the first or that of a retry, runs once and not before, whichever worker is killed then."""

import time

import pytest
from account import read_topic
from drama import Stage

from yadtq.codec import decode
from yadtq.states import State

pytestmark = pytest.mark.real

DELAY_S = 8.0


def unburied(stage: Stage) -> set[bytes]:
    last = {record.key: record for record in read_topic(stage.app.broker, stage.topics.delayed)}
    return {key for key, record in last.items() if key is not None and record.value}


def test_a_worker_is_killed_while_tasks_and_retries_wait_and_all_are_done_once(stage: Stage) -> None:
    stage.create(partitions=4)
    first, second = stage.worker("first", "--runners", "1"), stage.worker("second", "--runners", "1")
    for worker in (first, second):
        worker.says("assigned partition")
    later = [f"later{number}" for number in range(40)]
    retried = [f"again{number}" for number in range(20)]
    stage.submit(*((task_id, "once_more", DELAY_S) for task_id in retried))
    begun_ms = time.time_ns() // 1_000_000
    stage.submit(*((task_id, "add", 1, 2) for task_id in later), delay_s=DELAY_S)
    stage.until(lambda: all(stage.attempts(task_id) == 1 for task_id in retried))
    stage.until(lambda: len(unburied(stage)) == len(later) + len(retried))
    first.kill()
    states = stage.until_final([*later, *retried])
    assert set(states.values()) == {State.SUCCESS}
    account = stage.account().check(duplicated=set(retried))
    assert {account.starts[task_id] for task_id in retried} == {2}
    assert set(account.published) == {*later, *retried}
    for run in account.runs:
        if run.task_id in later:
            assert run.start_ms >= begun_ms + DELAY_S * 1000, f"{run} came too early"
    stage.until(lambda: unburied(stage) == set())
    fired = [decode(record.value) for record in stage.tasks_in_kafka()]
    assert all(envelope.not_before_ms for envelope in fired if envelope.task_id in later)


def test_a_task_in_a_runner_submits_for_later(stage: Stage) -> None:
    stage.create()
    worker = stage.worker("own", "--runners", "1")
    worker.says("assigned partition")
    stage.submit(("parent", "fan_out", 3, 0.0, 2.0))
    stage.until(lambda: len(unburied(stage)) == 3)
    children = [key.decode().partition(":")[2] for key in unburied(stage)]
    assert set(stage.until_final(children).values()) == {State.SUCCESS}
    stage.account().check(duplicated=set())


def test_ten_thousand_that_are_due_at_once_are_fired_and_done_once(stage: Stage) -> None:
    stage.create(partitions=4)
    worker = stage.worker("own", "--runners", "2", "--max-tasks", "0")
    worker.says("assigned partition")
    names = [f"t{number}" for number in range(10_000)]
    due_ms = time.time_ns() // 1_000_000 + 6_000
    stage.submit(*((name, "add", 1, 2) for name in names), at_ms=due_ms)
    stage.until(lambda: len(stage.finals(names)) == len(names))
    account = stage.account().check(duplicated=set())
    starts = sorted(run.start_ms - due_ms for run in account.runs)
    assert len(starts) == len(names)
    assert starts[0] >= 0
    print(f"due at once: {starts[0]} ms the first, {starts[5_000]} ms the middle, {starts[-1]} ms the last")
    stage.until(lambda: unburied(stage) == set())
