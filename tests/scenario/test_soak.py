"""What takes minutes: stores that are away for a minute, a worker that stands still for one, a storm of 60,000 tasks.

`make soak` runs it; `make test` does not.
"""

import random
import time

import psutil
import pytest
from drama import Stage
from storm import Reckoning, Storm, choose_seed, pids_of

from yadtq.dev.services import Services

pytestmark = [pytest.mark.real, pytest.mark.soak, pytest.mark.timeout(1_200)]
PARTITIONS = 8
NAMES = ["one", "two", "three"]
OUTAGE_S = 60.0
LOAD = 2_000
FAULTS = ["kill", "stop", "replace", "runner", "runner"] * 8
LINES_A_S = 1.0
LOAD_OF_WAITING = 0.2  # of a core, of each worker without Kafka


@pytest.fixture
def storm(fragile_stage: Stage) -> Storm:
    """Three workers on services of their own."""
    seed = choose_seed()
    print(f"YADTQ_SEED={seed}")
    fragile_stage.create(PARTITIONS)
    storm = Storm(fragile_stage, random.Random(seed), ["--runners", "2"])
    for worker in [storm.enter(name) for name in NAMES]:
        worker.says("assigned partition")
    return storm


def test_sixty_thousand_tasks_come_through_a_storm(storm: Storm) -> None:
    with storm.stage.observed():
        storm.rage(FAULTS, 60_000)
        end(storm)
    tell(storm).check(kinds=set(FAULTS))


def test_kafka_is_away_for_a_minute(storm: Storm, own_services: Services) -> None:
    with storm.stage.observed():
        storm.load(LOAD, LOAD // 10)
        with storm.fault("no Kafka"):
            own_services.kill_kafka()
            busy = {worker.pid: cpu_s(worker.pid) for worker in storm.workers.values()}
            lines = {worker.pid: len(worker.lines) for worker in storm.workers.values()}
            wait(storm, OUTAGE_S)
            for worker in storm.workers.values():
                assert cpu_s(worker.pid) - busy[worker.pid] <= LOAD_OF_WAITING * OUTAGE_S
                assert len(worker.lines) - lines[worker.pid] <= LINES_A_S * OUTAGE_S, str(worker)
            own_services.start_kafka()
        resumes(storm, 20.0)
        end(storm)
    tell(storm).check(kinds={"no Kafka"})


def test_redis_is_away_for_a_minute(storm: Storm, own_services: Services) -> None:
    with storm.stage.observed():
        storm.load(LOAD, LOAD // 10)
        with storm.fault("no Redis", lambda: everybody(storm)):
            own_services.kill_redis()
            storm.load(LOAD, 0)
            wait(storm, OUTAGE_S)
            own_services.start_redis()
        resumes(storm, 5.0)
        end(storm)
    tell(storm).check(kinds={"no Redis"})


def test_a_worker_stands_still_for_a_minute(storm: Storm) -> None:
    with storm.stage.observed():
        storm.load(LOAD, LOAD // 10)
        storm.stop("two", OUTAGE_S, lambda: storm.load(LOAD, LOAD // 10))
        storm.workers["two"].says("reborn")
        storm.stage.until(lambda: storm.stage.partitions_of("two"), 15.0)
        storm.load(LOAD, LOAD // 10)
        end(storm)
    tell(storm).check(kinds={"stop"})


@pytest.mark.parametrize("first", ["kafka", "redis"])
def test_both_stores_are_away_and_come_back_one_after_the_other(
    storm: Storm, own_services: Services, first: str
) -> None:
    back = {"kafka": own_services.start_kafka, "redis": own_services.start_redis}
    with storm.stage.observed():
        storm.load(LOAD, LOAD // 10)
        with storm.fault("no stores", lambda: everybody(storm)):
            own_services.kill_kafka()
            own_services.kill_redis()
            wait(storm, 20.0)
            back.pop(first)()
            wait(storm, 10.0)
            (second,) = back.values()
            second()
        resumes(storm, 60.0)
        end(storm)
    tell(storm).check(kinds={"no stores"})


def everybody(storm: Storm) -> set[int]:
    return set().union(*(pids_of(worker) for worker in storm.workers.values()))


def wait(storm: Storm, seconds: float) -> None:
    until_mono = time.monotonic() + seconds
    storm.stage.until(lambda: time.monotonic() > until_mono, seconds + 5.0)


def resumes(storm: Storm, within_s: float) -> None:
    """Every worker starts something this soon."""
    since_ms = time.time() * 1000
    storm.load(LOAD, 1)

    def resumed() -> bool:
        started = {run.pid for run in storm.stage.runs() if run.start_ms > since_ms}
        return all(pids_of(worker) & started for worker in storm.workers.values())

    storm.stage.until(resumed)
    took_s = time.time() - since_ms / 1000
    print(f"resumed after {took_s:.1f} s")
    assert took_s <= within_s


def end(storm: Storm) -> None:
    storm.drain()
    storm.leave()


def tell(storm: Storm) -> Reckoning:
    reckoning = storm.reckon()
    print(reckoning)
    return reckoning


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
