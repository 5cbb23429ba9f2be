"""New code, more workers, fewer workers, all of them replaced, under load: nothing runs twice and nobody fails."""

import random
import signal

import pytest
from drama import Stage
from storm import Storm, choose_seed, runners_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]
LOAD = 1_200
PARTITIONS = 8


def test_nothing_runs_twice(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    seed = choose_seed()
    print(f"YADTQ_SEED={seed}")
    rng = random.Random(seed)
    stage.create(PARTITIONS)
    storm = Storm(stage, rng, ["--runners", "2"])
    first = storm.enter("one")
    first.says(f"assigned partition {PARTITIONS - 1}")
    with stage.observed():
        storm.load(LOAD, LOAD // 10)
        renew_code(storm, "one")
        storm.load(LOAD, LOAD // 10)
        for name in ("two", "three", "four"):
            storm.enter(name)
        stage.until(lambda: all(stage.partitions_of(name) for name in storm.workers))
        storm.load(LOAD, LOAD // 10)
        for name in list(storm.workers):
            storm.replace(name)
        storm.load(LOAD, LOAD // 10)
        for name in ("two", "three", "four"):
            storm.retire(name)
        stage.until(lambda: len(stage.partitions_of("one")) == PARTITIONS)
        storm.drain()
        storm.leave()
    reckoning = storm.reckon()
    with capsys.disabled():
        print(f"\nYADTQ_SEED={seed}: {reckoning}")
    reckoning.check(kinds={"renew", "replace", "retire"})
    assert reckoning.extra == [], reckoning


def renew_code(storm: Storm, name: str) -> None:
    """SIGHUP: all runners are replaced, and Kafka hears nothing of it."""
    worker = storm.workers[name]
    old = runners_of(worker) & {run.pid for run in storm.stage.runs()}
    rebalances = len(worker.said("assigned|revoked|lost"))
    with storm.fault("renew"):
        worker.signal(signal.SIGHUP)
        storm.stage.until(lambda: not runners_of(worker) & old)
    assert len(worker.said("assigned|revoked|lost")) == rebalances, "there was a rebalance"
