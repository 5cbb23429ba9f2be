"""Dead letters are replayed from the command line: what failed runs again as a new task, junk as a task of ours."""

import sys

import pytest
from drama import QUEUE, Stage

from yadtq.broker import Message
from yadtq.codec import decode
from yadtq.envelope import Envelope
from yadtq.states import State

pytestmark = pytest.mark.real


def dlq(stage: Stage, *words: str, code: int = 0) -> list[str]:
    actor = stage.enter(f"dlq {words[0]}", [sys.executable, "-m", "yadtq", "dlq", *words])
    actor.leaves(code)
    return actor.lines


def test_they_run_again_under_ids_of_their_own(stage: Stage) -> None:
    stage.create(partitions=2)
    worker = stage.worker("worker")
    stage.submit(("fails", "add", 1, "one"), ("unknown", "no_such_task"))
    send(stage, b"\x00 junk")
    assert stage.until_final(["fails", "unknown"]) == dict.fromkeys(["fails", "unknown"], State.FAILED)
    stage.until(lambda: len(stage.dead_letters()) == 3)

    listed = dlq(stage, "list", QUEUE)
    assert len([line for line in listed if line.startswith("0/")]) == 3
    junk = next(line.split()[0] for line in listed if "unknown" not in line and "fails" not in line and "0/" in line)
    assert any("no envelope" in line for line in dlq(stage, "show", QUEUE, junk))

    dlq(stage, "replay", QUEUE, "fails", "--args", "[1, 2]")
    dlq(stage, "replay", QUEUE, junk, "--type", "add", "--args", "[3, 4]")
    dlq(stage, "replay", QUEUE, "--all", "--yes")  # the one that no worker knows
    again = dlq(stage, "replay", QUEUE, "--all", "--reason", "no_such_task", "--type", "add", "--yes")
    assert again == [f"Nothing to replay in {QUEUE}."]

    replays = {task.replay_of: task for task in tasks(stage) if task.replay_of}
    assert len(replays) == 3
    ids = {of.split("/")[0].removeprefix(stage.app.settings.prefix): task.task_id for of, task in replays.items()}
    finals = stage.until_final(ids.values())
    assert {of: finals[task_id] for of, task_id in ids.items()} == {
        "fails": State.SUCCESS,
        f"{QUEUE}.dlq": State.SUCCESS,
        "unknown": State.FAILED,
    }
    assert stage.finals(["fails"]) == {"fails": State.FAILED}
    assert worker.alive


def send(stage: Stage, value: bytes) -> None:
    producer = stage.app.broker.producer()
    producer.produce(Message(stage.topics.tasks, value), lambda report: None)
    assert producer.close(10) == 0


def tasks(stage: Stage) -> list[Envelope]:
    return [decode(record.value) for record in stage.tasks_in_kafka() if record.value.startswith(b"{")]


def test_kafka_that_is_not_there_is_said_in_one_line(stage: Stage) -> None:
    actor = stage.enter("dlq", [sys.executable, "-m", "yadtq", "dlq", "list", QUEUE, "--kafka", "127.0.0.1:1"])
    actor.leaves(1)
    actor.says("does not answer")
    assert len(actor.lines) == 1
