"""10,000 malformed records among good ones: all of them among the dead letters byte by byte, the good ones all done."""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest
from drama import Stage, task

from waiting import eventually
from yadtq.broker import Message, Report
from yadtq.layout import HEADER_REASON, HEADER_SOURCE
from yadtq.states import State

pytestmark = pytest.mark.real
MALFORMED = 10_000
GOOD = [f"good{n}" for n in range(300)]


def test_they_stop_nobody_and_none_of_them_is_lost(stage: Stage) -> None:
    stage.create(partitions=2)
    consumer = stage.consumer("consumer")
    bad = list(islice(malformed(random.Random(7)), MALFORMED))
    values = bad + [task(name, "add", 1, n).encode() for n, name in enumerate(GOOD)]
    random.Random(8).shuffle(values)
    with stage.observed():
        send(stage, values)
        assert stage.until_final(GOOD) == dict.fromkeys(GOOD, State.SUCCESS)
        stage.until(lambda: sum(stage.committed().values()) == MALFORMED + len(GOOD))

    letters = stage.dead_letters()
    assert Counter(letter.value for letter in letters) == Counter(bad)
    assert all(letter.headers[HEADER_REASON] for letter in letters)
    sources = {letter.headers[HEADER_SOURCE].decode() for letter in letters}
    assert len(sources) == MALFORMED
    by_source = {f"{r.topic}/{r.partition}/{r.offset}": r.value for r in stage.tasks_in_kafka()}
    assert all(letter.value == by_source[letter.headers[HEADER_SOURCE].decode()] for letter in letters)
    stage.account().check(duplicated=set())
    assert consumer.alive
    assert consumer.said("lost|revoked|moves to another") == []
    consumer.interrupt()
    consumer.leaves(0)


def malformed(chance: random.Random) -> Iterator[bytes]:
    """Bytes of every kind that a topic may hold."""
    while True:
        yield from (
            chance.randbytes(chance.randrange(1, 200)),
            b"",
            b"null",
            b'{"task_id": "x"',
            b'{"task_id": "x"}',
            b'{"task_id": "x", "task_type": "add", "task_args": {}}',
            b'{"task_id": 7, "task_type": "add", "task_args": [1, 2]}',
            b'{"task_id": "", "task_type": "add", "task_args": [1, 2]}',
            b'{"task_id": "\xff\xfe", "task_type": "add", "task_args": [1, 2]}',
            b'{"task_id": "x", "task_type": "add", "task_args": [1, 2], "version": 99}',
            b'{"task_id": "x", "task_type": "add", "task_args": [1, 2], "task_tries": -1}',
            b'{"task_id": "x", "task_type": "add", "task_args": [1, 2], "task_tries": 1e400}',
            b'{"task_id": "x\\u0000y", "task_type": "add", "task_args": [1, 2]}',
            b"[" * 20_000,
            b'{"task_id": "x", "task_type": "add", "task_args": ' + b"[" * 5_000 + b"]" * 4_999 + b"}",
            b"\x00\x01\x02 confluent avro " + chance.randbytes(8),
            f"line {chance.random()}\n\n".encode(),
        )


def send(stage: Stage, values: list[bytes]) -> None:
    reports: list[Report] = []
    producer = stage.app.broker.producer()
    for at, value in enumerate(values):
        producer.produce(Message(stage.topics.tasks, value, partition=at % 2), reports.append)
    eventually(lambda: len(reports) == len(values), 60)
    assert producer.close(10) == 0
    assert {report.error for report in reports} == {None}
