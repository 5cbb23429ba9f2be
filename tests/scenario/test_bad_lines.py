"""Bad lines of the producer are named with their number and skipped, bad tasks end FAILED, and the rest goes on."""

import json
from collections import Counter

import pytest
from drama import Stage, task

from yadtq.states import State

pytestmark = pytest.mark.real
HUGE = "x" * (300 * 1024)
BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"add 1 2", "malformed"),
    "cut off": (b'{"task_id": "cut", "task_type": "add", "task_args": [1', "truncated"),
    "no object": (b'["add", 1, 2]', "Expected `object`"),
    "no id": (b'{"task_type": "add", "task_args": [1, 2], "task_tries": 0}', "missing required field `task_id`"),
    "no type": (b'{"task_id": "n1", "task_args": [1, 2], "task_tries": 0}', "missing required field `task_type`"),
    "no arguments": (b'{"task_id": "n2", "task_type": "add", "task_tries": 0}', "missing required field `task_args`"),
    "empty id": (task("", "add", 1, 2).encode(), "task_id and task_type are not empty"),
    "long id": (task("i" * 201, "add", 1, 2).encode(), "task_id has 1 to 200 characters, not 201"),
    "unprintable id": (task("a\tb", "add", 1, 2).encode(), "task_id has characters that cannot be printed"),
    "id no string": (b'{"task_id": 7, "task_type": "add", "task_args": [], "task_tries": 0}', "Expected `str`"),
    "arguments no array": (
        b'{"task_id": "w1", "task_type": "add", "task_args": {"a": 1}, "task_tries": 0}',
        "task_args is not an array",
    ),
    "tries no number": (
        b'{"task_id": "w2", "task_type": "add", "task_args": [], "task_tries": "0"}',
        "Expected `int`",
    ),
    "a field more": (
        b'{"task_id": "w4", "task_type": "add", "task_args": [1, 2], "task_tries": 0, "task_arg": [3]}',
        "unknown field `task_arg`; known are task_id, task_type, task_args, task_tries",
    ),
    "negative tries": (task("w3", "add", 1, 2, tries=-1).encode(), "task_tries is a number from 0 up"),
    "not UTF-8": (b'{"task_id": "\xff\xfe", "task_type": "add", "task_args": [], "task_tries": 0}', "UTF-8|utf-8"),
    "too deep": (
        b'{"task_id": "deep", "task_type": "add", "task_args": '
        + b"[" * 90_000
        + b"]" * 90_000
        + b', "task_tries": 0}',
        "recursion|Recursion",
    ),
    "over the limit": (task("big", "add", HUGE, 1).encode(), r"takes 307,\d+ bytes and the limit is 262,144"),
    "over a MiB": (task("huge", "add", HUGE * 4, 1).encode(), "longer than 1,048,576 bytes"),
    "used before": (task("good0", "add", 1, 1).encode(), "the id 'good0' was used before"),
}


def test_every_kind_of_bad_line_is_named_with_its_number_and_the_rest_goes_on(stage: Stage) -> None:
    lines: list[str | bytes] = ["\ufeff" + task("good0", "add", 1, "1"), "", "   "]  # behind a byte order mark
    good = ["good0"]
    numbers = {}
    for kind, (line, _) in BAD.items():
        lines.append(line)
        numbers[kind] = len(lines)
        good.append(f"good{len(good)}")
        lines.append(task(good[-1], "mul", len(good), "2"))
    producer = stage.producer(*lines, "end", partitions=3)
    producer.says(f"end: {len(good)} published, {len(BAD)} skipped")
    for kind, (_, reason) in BAD.items():
        producer.says(f"line {numbers[kind]} skipped: .*({reason})")
    assert len(producer.said(r"line \d+ skipped")) == len(BAD)
    per_partition = Counter(record.partition for record in stage.tasks_in_kafka())
    assert max(per_partition.values()) - min(per_partition.values()) <= 1
    assert len(per_partition) == 3

    consumer = stage.consumer("consumer")
    for actor in (producer, consumer):
        actor.leaves(0)
    producer.says(f"{len(good)} published, {len(BAD)} skipped; {len(good)} SUCCESS, 0 FAILED")
    assert set(stage.account().check(duplicated=set()).states) == set(good)


def test_tasks_that_cannot_succeed_end_failed_with_their_reason_and_their_bytes(stage: Stage) -> None:
    lines = [
        task("unknown", "conquer", 1),
        task("text", "add", "abc", "67"),
        task("few", "add", 1),
        task("tried", "fail", tries=2),
    ]
    producer = stage.producer(*lines, "end")
    consumer = stage.consumer("consumer")
    for actor in (producer, consumer):
        actor.leaves(0)
    producer.says("4 published, 0 skipped; 0 SUCCESS, 4 FAILED")

    logs = {name: log_of(stage, name) for name in ("unknown", "text", "few", "tried")}
    known = "add, div, fail, flaky, mul, sleep, sub"
    assert f"unknown task 'conquer'; this worker knows {known}" in logs["unknown"]
    assert "ValueError: could not convert string to float: 'abc'" in logs["text"]
    assert "missing a required argument: 'b'" in logs["few"]
    account = stage.account().check(duplicated={"text"})
    assert account.starts == {"text": 3, "few": 1, "tried": 1}
    assert account.attempts == {"unknown": 0, "text": 3, "few": 1, "tried": 3}
    assert set(account.states.values()) == {State.FAILED}
    sent = {json.loads(record.value)["task_id"]: record.value for record in stage.tasks_in_kafka()}
    assert {letter.key: letter.value for letter in stage.dead_letters()} == {
        name.encode(): value for name, value in sent.items()
    }


def test_a_topic_with_another_number_of_partitions_is_used_and_said(stage: Stage) -> None:
    stage.create(partitions=2)
    producer = stage.producer(*(task(f"t{n}", "add", 1, 1) for n in range(7)), partitions=5)
    producer.says("topic q exists with 2 partitions, not 5; 2 are used")
    stage.until(lambda: len(stage.tasks_in_kafka()) == 7)
    assert sorted(Counter(record.partition for record in stage.tasks_in_kafka()).values()) == [3, 4]


def log_of(stage: Stage, task_id: str) -> str:
    record = stage.record(task_id)
    assert record is not None
    assert record.result is None
    return record.error_log or ""
