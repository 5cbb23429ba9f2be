"""An outcome that comes too late closes nothing: its record waits until the attempt that counts has ended in Kafka."""

import time

import pytest
import redis
from drama import Stage, task

from yadtq.broker import Message, Report

pytestmark = pytest.mark.real
SLEEP_S = 5.0


def test_the_first_owners_offset_waits_for_the_second_owners_outcome(stage: Stage) -> None:
    stage.create(partitions=2)
    first, second = stage.consumer("first"), stage.consumer("second")
    stage.until(lambda: [len(stage.partitions_of(name)) for name in ("first", "second")] == [1, 1])
    (mine,), (theirs,) = stage.partitions_of("first"), stage.partitions_of("second")
    with stage.observed():
        publish(stage, mine)
        started_ms = stage.until_running("twice").start_ms
        publish(stage, theirs)  # the same id again, as a producer leaves it that died before it could note it
        second.says("twice is held by first")
        stage.until(lambda: time.time() * 1000 - started_ms > SLEEP_S * 500)
        with redis.from_url(stage.env["YADTQ_REDIS"]) as valkey:  # the first one's beats are lost, and it lives on
            heartbeats = stage.app.layout.heartbeats
            stage.until(lambda: (valkey.hdel(heartbeats, "first"), second.said("(twice) taken over from first"))[1])
        first.says("twice: too late, another attempt counts")
        assert stage.finals(["twice"]) == {}, "the second one was quicker: void"
        stage.until_final(["twice"])
        stage.until_committed({mine: 1, theirs: 1})
    account = stage.account().check(duplicated={"twice"})
    assert [run.pid for run in account.of_task("twice")] == [first.pid, second.pid]
    assert {outcome.worker for outcome in account.outcomes["twice"]} == {"second"}


def publish(stage: Stage, partition: int) -> None:
    reports: list[Report] = []
    producer = stage.app.broker.producer()
    producer.produce(
        Message(stage.topics.tasks, task("twice", "sleep", SLEEP_S).encode(), partition=partition), reports.append
    )
    stage.until(lambda: reports)
    assert reports[0].error is None
    producer.close(10)
