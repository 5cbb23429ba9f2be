"""Valkey forgets all, its last writes, or what is over: Kafka knows, nothing finished runs again, and all ends."""

import os

import pytest
import redis
from confluent_kafka.admin import AdminClient
from drama import Stage

from yadtq.dev.services import Services
from yadtq.states import State

pytestmark = pytest.mark.real
QUICK = [f"quick{n}" for n in range(40)]
LONG = [f"long{n}" for n in range(4)]
LATER = [f"later{n}" for n in range(10)]
LONG_S = 8.0


def test_a_wipe_in_the_middle_of_work_repeats_nothing(fragile_stage: Stage, own_services: Services) -> None:
    stage = fragile_stage
    stage.create(partitions=2)
    workers = [stage.worker(name, "--concurrency", "4") for name in ("one", "two")]
    stage.until_each_has(1, "one", "two")
    with stage.observed():
        stage.submit(*((name, "add", 1, 1) for name in QUICK), *((name, "nap", LONG_S) for name in LONG))
        stage.until_final(QUICK)
        for name in LONG:
            stage.until_running(name)
        stage.submit(*((name, "nap", 1.0) for name in LATER))
        stage.until(lambda: len(stage.finals(LATER)) >= 2)
        with redis.Redis.from_url(own_services.redis) as client:
            client.flushall()
        for worker in workers:
            worker.says("waiting_for_ledger")
        everything = [*QUICK, *LONG, *LATER]
        assert set(stage.until_final(everything).values()) == {State.SUCCESS}
        assert sum(len(worker.said("rebuilt .* records")) for worker in workers) == 1
        for worker in workers:
            worker.interrupt()
            worker.leaves(0)
    stage.account().check(duplicated=set())


def test_what_kafka_and_valkey_forgot_is_looked_up_in_the_outcomes(
    stage: Stage, kafka_address: str, redis_url: str
) -> None:
    stage.create(partitions=2)
    first = stage.worker("first")
    stage.submit(*((name, "add", 1, 1) for name in QUICK))
    stage.until_final(QUICK)
    stage.until(lambda: sum(stage.committed().values()) == len(QUICK))
    first.interrupt()
    first.leaves(0)

    admin = AdminClient({"bootstrap.servers": kafka_address})
    (forgotten,) = admin.delete_consumer_groups([stage.group]).values()
    forgotten.result(30)
    assert stage.committed() == {}
    with redis.Redis.from_url(redis_url) as client:  # as if their time were over
        layout = stage.app.layout
        client.delete(layout.read(stage.topics.tasks), *(layout.task(name) for name in QUICK))

    second = stage.worker("second")
    second.says("outcomes_read .*40 records")
    stage.until(lambda: sum(stage.committed().values()) == len(QUICK))
    stage.submit(("new", "add", 1, 1))
    stage.until_final([*QUICK, "new"])
    second.interrupt()
    second.leaves(0)
    stage.account().check(duplicated=set())


def test_a_valkey_that_lost_the_tail_of_its_log_is_noticed(fragile_stage: Stage, own_services: Services) -> None:
    stage = fragile_stage
    stage.create(partitions=2)
    workers = [stage.worker(name, "--concurrency", "4") for name in ("one", "two")]
    stage.until_each_has(1, "one", "two")
    stage.submit(*((name, "add", 1, 1) for name in LATER))
    stage.until_final(LATER)
    (log,) = (own_services.folder / "redis").rglob("*.incr.aof")
    kept = log.stat().st_size
    stage.submit(*((name, "add", 1, 1) for name in QUICK), *((name, "nap", LONG_S) for name in LONG))
    stage.until_final(QUICK)
    for name in LONG:
        stage.until_running(name)
    own_services.kill_redis()
    os.truncate(log, kept)
    own_services.start_redis()
    for worker in workers:
        worker.says("waiting_for_ledger")
    assert set(stage.until_final([*QUICK, *LONG, *LATER]).values()) == {State.SUCCESS}
    for worker in workers:
        worker.interrupt()
        worker.leaves(0)
    stage.account().check(duplicated=set())
