"""Workers and runners are killed, stopped and replaced at random: nothing is lost, nothing ends twice, order holds."""

import random

import pytest
from drama import Stage
from storm import Storm, choose_seed

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
TASKS = 10_000
PARTITIONS = 8
FAULTS = ["kill", "kill", "stop", "stop", "replace", "runner", "runner", "runner", "runner"]
NAMES = ["one", "two", "three"]


def test_ten_thousand_tasks_come_through_a_storm(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    seed = choose_seed()
    print(f"YADTQ_SEED={seed}")
    rng = random.Random(seed)
    stage.create(PARTITIONS)
    storm = Storm(stage, rng, ["--runners", "2", "--order", "key"])
    for worker in [storm.enter(name) for name in NAMES]:
        worker.says("assigned partition")
    with stage.observed():
        storm.rage(FAULTS, TASKS)
        drained_s = storm.drain()
        storm.leave()
    reckoning = storm.reckon(ordered=True)
    with capsys.disabled():
        print(f"\nYADTQ_SEED={seed} drained after {drained_s:.1f} s: {reckoning}")
    reckoning.check(kinds=set(FAULTS))
    assert reckoning.recovered, f"nothing had to run again: void; {reckoning}"
