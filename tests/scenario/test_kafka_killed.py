"""Kafka killed in the middle of work: what runs is finished, work goes on when it is back, nothing runs twice."""

import time
from pathlib import Path

import pytest
from drama import Stage, task

from yadtq.codec import decode
from yadtq.dev.services import Services
from yadtq.states import State

pytestmark = pytest.mark.real
BEFORE = [f"before{n}" for n in range(16)]
MEANWHILE = [f"meanwhile{n}" for n in range(4)]
RESUMES_S = 30.0


def test_work_goes_on_when_kafka_is_back(fragile_stage: Stage, own_services: Services) -> None:
    stage = fragile_stage
    producer = stage.producer(*(task(name, "sleep", 0.3) for name in BEFORE), partitions=2)
    consumers = [stage.consumer("one"), stage.consumer("two")]
    with stage.observed():
        stage.until(lambda: len(stage.finals(BEFORE)) >= 4)
        stage.until(lambda: any(run.end_ms is None for run in stage.runs()))
        own_services.kill_kafka()
        killed_ms = time.time() * 1000
        producer.write(*(task(name, "add", 1, 1) for name in MEANWHILE))
        stage.until(lambda: any(run.end_ms is not None and run.end_ms > killed_ms for run in stage.runs()))
        stage.until(lambda: time.time() * 1000 - killed_ms > 2_000)
        shown = stage.finals(BEFORE)
        own_services.start_kafka()
        back_ms = time.time() * 1000
        assert set(stage.until_final([*BEFORE, *MEANWHILE]).values()) == {State.SUCCESS}
        producer.write("end")
        for actor in (*consumers, producer):
            actor.leaves(0)

    account = stage.account().check(duplicated=set())
    outcomes = [ends[0] for ends in account.outcomes.values()]
    late = {o.task_id for o in outcomes if killed_ms < (o.finished_at_ms or 0) < back_ms}
    assert late, "nothing ended while Kafka was dead: void"
    assert late & set(shown) == set(), "shown as final before Kafka had it"
    resumed_ms = min(run.start_ms for run in account.runs if run.start_ms > back_ms)
    assert resumed_ms - back_ms < RESUMES_S * 1000
    producer.says("20 published, 0 skipped; 20 SUCCESS, 0 FAILED")


def test_an_end_that_waits_while_kafka_restarts_comes_all_the_same(
    fragile_stage: Stage, own_services: Services
) -> None:
    stage = fragile_stage
    consumer = stage.consumer("consumer")
    producer = stage.producer(task("slow", "sleep", 2), task("last", "add", 1, 1), "end")
    producer.says("waiting until all are done")
    stage.until_running("slow")
    own_services.kill_kafka()
    own_services.start_kafka()
    for actor in (consumer, producer):
        actor.leaves(0)
    producer.says("2 published, 0 skipped; 2 SUCCESS, 0 FAILED")
    stage.account().check(duplicated=set())


def test_what_a_producer_was_sending_when_kafka_died_is_all_there_afterwards(
    fragile_stage: Stage, own_services: Services, tmp_path: Path
) -> None:
    stage = fragile_stage
    names = [f"t{n}" for n in range(20_000)]
    file = tmp_path / "many_tasks.txt"
    file.write_text("".join(task(name, "add", 1, 1) + "\n" for name in names))
    stage.create(partitions=2)
    with file.open("rb") as lines:
        producer = stage.enter_producer("producer", 2, lines)
        stage.until(lambda: stage.published() > 1_000)
        own_services.kill_kafka()
    assert not producer.said("20000 published"), "Kafka died too late: void"
    own_services.start_kafka()
    producer.leaves(0)
    producer.says("20000 published, 0 skipped; the queue goes on")
    assert {decode(record.value).task_id for record in stage.tasks_in_kafka()} == set(names)
