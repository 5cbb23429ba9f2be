"""While dead letters cannot be written, no commit passes their records; once they can be, all of them appear."""

import hashlib

import pytest
from confluent_kafka.admin import AdminClient
from drama import Stage, task

from yadtq.broker import Message, Report
from yadtq.layout import HEADER_SHA256, HEADER_SOURCE
from yadtq.states import State

pytestmark = pytest.mark.real


def test_the_offset_waits_for_the_dead_letter_and_others_wait_for_nothing(stage: Stage) -> None:
    stage.create(partitions=2)
    # The client waits so long for a topic to appear before it says that there is none; 30 s unless it is told.
    kafka = f"kafka://{stage.env['YADTQ_KAFKA']}?topic.metadata.propagation.max.ms=500"
    consumer = stage.consumer("consumer", "--kafka", kafka)
    consumer.says("partition 1 assigned")
    admin = AdminClient({"bootstrap.servers": stage.env["YADTQ_KAFKA"]})
    admin.delete_topics([stage.topics.dead])[stage.topics.dead].result(30)
    stage.until(lambda: stage.topics.dead not in stage.app.broker.partitions())

    values = [b"no envelope", task("unknown", "conquer").encode(), task("behind", "add", 1, 1).encode()]
    for value in values:
        publish(stage, value, partition=0)
    publish(stage, task("beside", "add", 2, 2).encode(), partition=1)
    assert stage.until_final(["behind", "beside"]) == dict.fromkeys(["behind", "beside"], State.SUCCESS)
    stage.until(lambda: stage.committed().get(1) == 1)
    consumer.says("Kafka does not take a record: .*[Uu]nknown topic")
    assert stage.committed().get(0, 0) == 0
    assert stage.finals(["unknown"]) == {}

    stage.create(partitions=2)
    assert stage.until_final(["unknown"]) == {"unknown": State.FAILED}
    stage.until_committed({0: 3, 1: 1})
    assert {letter.value for letter in stage.dead_letters()} == set(values[:2])
    stage.account().check(duplicated=set())


def test_a_dead_letter_that_is_too_large_to_copy_says_where_the_original_lies(stage: Stage) -> None:
    stage.create()
    stage.consumer("consumer")
    original = b"x" * (2 * 1024 * 1024 - 100)  # fits just so; the copy has headers too
    publish(stage, original, partition=0)
    stage.until_committed({0: 1})
    (letter,) = stage.dead_letters()
    assert letter.value == b""
    assert letter.headers[HEADER_SOURCE].decode() == f"{stage.topics.tasks}/0/0"
    assert letter.headers[HEADER_SHA256].decode() == hashlib.sha256(original).hexdigest()


def publish(stage: Stage, value: bytes, partition: int) -> None:
    reports: list[Report] = []
    producer = stage.app.broker.producer()
    producer.produce(Message(stage.topics.tasks, value, partition=partition), reports.append)
    stage.until(lambda: reports)
    assert reports[0].error is None
    producer.close(10)
