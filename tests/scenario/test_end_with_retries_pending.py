"""`end` while retries are pending: everything still ends, then all leave with 0, the stand-by and the monitor too."""

import subprocess
from pathlib import Path

import pytest
from drama import QUEUE, Stage, task

from yadtq.states import State

pytestmark = pytest.mark.real


def test_all_leave_once_the_last_retry_is_over(stage: Stage, tmp_path: Path) -> None:
    lines = [task("slow", "sleep", 1.5), task("bad1", "fail"), task("sum", "add", 2, 3), task("bad2", "add", "abc", 67)]
    file = tmp_path / "a_tasks.txt"
    file.write_text("\n".join([*lines, "end", ""]))
    stage.create()
    monitor = stage.monitor("--topic", QUEUE)
    consumer = stage.consumer("consumer")
    consumer.says("partition 0 assigned")
    stand_by = stage.stand_by("stand-by")
    stand_by.says("ready to take over")
    tail = subprocess.Popen(["tail", "-n", "+1", "-f", str(file)], stdout=subprocess.PIPE)
    try:
        producer = stage.enter_producer("producer", 1, tail.stdout)
        producer.says("end: 4 published, 0 skipped; waiting until all are done")
        assert stage.finals(["bad1", "bad2"]) == {}, "the retries were over before the end came: void"
        for actor in (producer, consumer, stand_by, monitor):
            actor.leaves(0)
    finally:
        tail.kill()
        tail.communicate()

    producer.says("the queue has ended: 4 published, 0 skipped; 2 SUCCESS, 2 FAILED")
    for actor in (consumer, stand_by):
        actor.says("the queue has ended")
    assert stand_by.said("takes over partition|starts") == []
    assert len(consumer.said("failed in attempt [12], again")) == 4
    assert monitor.said("(consumer|stand-by) is ALIVE") == ["consumer", "stand-by"]
    monitor.says("done")
    account = stage.account().check(duplicated={"bad1", "bad2"})
    assert account.attempts == {"slow": 1, "bad1": 3, "sum": 1, "bad2": 3}
    assert account.states["bad1"] is account.states["bad2"] is State.FAILED
    record = stage.record("bad2")
    assert record is not None
    assert record.result is None
    assert record.error_log is not None
    assert "could not convert string to float: 'abc'" in record.error_log


def test_end_counts_also_after_the_partitions_have_moved(stage: Stage) -> None:
    lines = [task("t1", "add", 1, 1), task("bad", "fail"), task("t2", "add", 2, 2), task("t3", "sleep", 1)]
    producer = stage.producer(*lines, "end", partitions=2)
    failing = stage.consumer("failing", fail_after=2)
    failing.leaves(3)
    stand_by = stage.stand_by("stand-by")
    stand_by.says("takes over partition 0")
    stand_by.leaves(0)
    producer.leaves(0)
    producer.says("4 published, 0 skipped; 3 SUCCESS, 1 FAILED")
    stage.account().check()
