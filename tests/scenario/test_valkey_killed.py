"""Valkey killed in the middle of work: submits go on, nothing new starts meanwhile, nothing is lost or runs twice."""

import time

import pytest
from drama import Stage, task

from yadtq.dev.services import Services
from yadtq.states import State

pytestmark = pytest.mark.real
BEFORE = [f"before{n}" for n in range(16)]
MEANWHILE = [f"meanwhile{n}" for n in range(6)]
RESUMES_S = 5.0


def test_work_stops_without_valkey_and_goes_on_with_it(fragile_stage: Stage, own_services: Services) -> None:
    stage = fragile_stage
    producer = stage.producer(*(task(name, "sleep", 0.3) for name in BEFORE), partitions=2)
    consumers = [stage.consumer("one"), stage.consumer("two")]
    with stage.observed():
        stage.until(lambda: len(stage.finals(BEFORE)) >= 4)
        stage.until(lambda: any(run.end_ms is None for run in stage.runs()))
        killing_ms = time.time() * 1000  # what runs now may end before the kill has returned
        own_services.kill_redis()
        killed_ms = time.time() * 1000
        for consumer in consumers:
            consumer.says("Redis at .* does not answer")
        producer.write(*(task(name, "add", 1, 1) for name in MEANWHILE))
        producer.says("cannot look for ids that were used before")
        stage.until(lambda: len(stage.tasks_in_kafka()) == len(BEFORE) + len(MEANWHILE))
        stage.until(lambda: time.time() * 1000 - killed_ms > 1_500)
        started_ms = time.time() * 1000
        own_services.start_redis()
        for consumer in consumers:
            consumer.says("Redis answers again")
        assert set(stage.until_final([*BEFORE, *MEANWHILE]).values()) == {State.SUCCESS}
        producer.write("end")
        for actor in (*consumers, producer):
            actor.leaves(0)

    account = stage.account().check(duplicated=set())
    assert any(run.start_ms < killing_ms <= (run.end_ms or 0) for run in account.runs), "nothing ran at the kill: void"
    # A claim may have been answered just before the kill, and its task then starts just after.
    during = [run for run in account.runs if killed_ms + 300 < run.start_ms < started_ms]
    assert during == []
    after = min(run.start_ms for run in account.runs if run.start_ms >= started_ms)
    assert after - started_ms < RESUMES_S * 1000
    producer.says("22 published, 0 skipped; 22 SUCCESS, 0 FAILED")
