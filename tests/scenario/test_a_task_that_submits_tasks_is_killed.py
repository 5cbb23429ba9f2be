"""A task that submits tasks is killed and runs again: what it had submitted runs once."""

import json
import os
import signal

import pytest
from drama import Stage

from yadtq.states import State

pytestmark = pytest.mark.real


@pytest.mark.parametrize("runners", ["0", "1"])
def test_the_children_of_a_task_that_runs_twice_run_once(stage: Stage, runners: str) -> None:
    stage.create(partitions=2)
    worker = stage.worker("own", "--runners", runners)
    worker.says("assigned partition 1")
    stage.submit(("parent", "fan_out", 5, 2.0))
    run = stage.until_running("parent")
    stage.until(lambda: len(stage.account().outcomes) == 5)
    if runners == "1":
        os.kill(run.pid, signal.SIGKILL)
        stage.until_running("parent", attempt=2)
    else:
        stage.until_final(["parent"])
    assert stage.until_final(["parent"]) == {"parent": State.SUCCESS}
    record = stage.record("parent")
    assert record is not None
    children = json.loads(record.result or b"[]")
    assert len(set(children)) == 5
    assert set(stage.until_final(children).values()) == {State.SUCCESS}
    account = stage.account().check(duplicated={"parent"} if runners == "1" else set())
    assert set(account.published) == {"parent", *children}
    assert {account.published[child] for child in children} == {2 if runners == "1" else 1}
