"""Two processes under one worker name: the older one leaves and says why, and nothing that had finished runs twice."""

import pytest
from drama import Stage, task

from yadtq.states import State

pytestmark = pytest.mark.real
DONE = ["done1", "done2"]
LATER = ["later1", "later2"]


def test_the_older_one_leaves_with_a_message_and_nothing_ends_twice(stage: Stage) -> None:
    producer = stage.producer(*(task(name, "add", 1, 1) for name in DONE))
    older = stage.consumer("same")
    with stage.observed():
        stage.until_final(DONE)
        producer.write(task("running", "sleep", 6), *(task(name, "add", 1, 1) for name in LATER))
        stage.until_running("running")
        newer = stage.consumer("same")
        older.leaves(1)
        older.says("another process has started under the worker name 'same'; this one leaves. Names are unique")
        newer.says("partition 0 assigned")
        again = stage.until_running("running", attempt=2)
        assert again.pid == newer.pid
        assert set(stage.until_final([*DONE, "running", *LATER]).values()) == {State.SUCCESS}
        stage.until_committed({0: 5})
        assert newer.said(r": (\w+) starts") == ["running", *LATER]
    account = stage.account().check(duplicated={"running"})
    assert account.of_task("running")[0].end_ms is None
    assert account.attempts == {"done1": 1, "done2": 1, "running": 2, "later1": 1, "later2": 1}
