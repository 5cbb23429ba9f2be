"""One task id is submitted 1,000 times at once: one run, one outcome, and all of its records are closed."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from drama import Stage, call

from yadtq.states import State

pytestmark = pytest.mark.real
TIMES = 1_000
TOGETHER = 25


def test_it_runs_once(stage: Stage) -> None:
    stage.create(partitions=4)
    workers = [stage.worker(name, "--runners", "2") for name in ("one", "two")]
    stage.until_each_has(2, "one", "two")
    with stage.observed(), ThreadPoolExecutor(TOGETHER) as pool:
        many = [pool.submit(stage.publish, [call("only", "nap", 3.0)]) for _ in range(TIMES)]
        for one in many:
            one.result()
        assert stage.until_final(["only"]) == {"only": State.SUCCESS}
        stage.until_drained()
    account = stage.account().check(duplicated=set())
    assert account.published["only"] == TIMES
    assert len({record.partition for record in stage.tasks_in_kafka()}) == 4, "one worker had them all: void"
    assert account.starts["only"] == 1
    assert account.attempts["only"] == 1
    for worker in workers:
        worker.interrupt()
        worker.leaves(0)
