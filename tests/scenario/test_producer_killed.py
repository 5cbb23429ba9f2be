"""The producer killed between two lines and started again with the same file: all is published, no task runs twice."""

import json

import pytest
import redis
from drama import Stage, task

from waiting import eventually
from yadtq.broker import Message, Report
from yadtq.ledger.protocol import PRODUCER_LEASE_MS
from yadtq.states import State

pytestmark = pytest.mark.real
LINES = [task(f"t{n}", "add", n, n) for n in range(12)]
IDS = [f"t{n}" for n in range(12)]


def test_the_same_file_again_publishes_what_is_missing(stage: Stage) -> None:
    killed = stage.producer(*LINES[:5], partitions=2)
    consumer = stage.consumer("consumer")
    stage.until_final(IDS[:5])
    killed.kill()
    silent_for_its_lease(stage)  # `test_runs.py` waits for that

    # What a producer leaves behind that dies between Kafka's report and the record in Redis.
    publish(stage, LINES[5].encode(), partition=0)
    stage.until_final(IDS[:6])
    again = stage.producer(*LINES, "end", partitions=2)
    for actor in (again, consumer):
        actor.leaves(0)

    assert again.said(r"line (\d+) skipped: the id '\w+' was used before") == ["1", "2", "3", "4", "5", "6"]
    again.says("the queue has ended: 6 published, 6 skipped; 6 SUCCESS, 0 FAILED")
    account = stage.account().check(duplicated=set())
    assert account.states == dict.fromkeys(IDS, State.SUCCESS)


def test_an_id_that_slipped_through_twice_runs_once(stage: Stage) -> None:
    stage.create(partitions=2)
    publish(stage, LINES[0].encode(), partition=0)
    producer = stage.producer(*LINES, "end", partitions=2)
    producer.says("end: 12 published")  # Redis knew nothing of the first
    consumer = stage.consumer("consumer")
    for actor in (producer, consumer):
        actor.leaves(0)
    account = stage.account().check(duplicated=set())
    assert account.published["t0"] == 2, "the id did not slip through: void"
    assert stage.committed() == {0: 7, 1: 6}
    producer.says("12 published, 0 skipped; 12 SUCCESS, 0 FAILED")


def silent_for_its_lease(stage: Stage) -> None:
    """Let the time of a producer's lease pass for all who have produced so far."""
    with redis.from_url(stage.env["YADTQ_REDIS"]) as valkey:
        run = json.loads(valkey.hget(stage.app.layout.runs, stage.topics.tasks))
        for producer in run["producers"].values():
            producer["beat_ms"] -= PRODUCER_LEASE_MS
        valkey.hset(stage.app.layout.runs, stage.topics.tasks, json.dumps(run))


def publish(stage: Stage, value: bytes, partition: int) -> None:
    reports: list[Report] = []
    producer = stage.app.broker.producer()
    producer.produce(Message(stage.topics.tasks, value, partition=partition), reports.append)
    eventually(lambda: reports)
    assert reports[0].error is None
    producer.close(10)
