"""A worker is cut off from Redis for longer than its lease: nothing new starts there, and what it had is taken over."""

import signal
import time

import pytest
from drama import Stage
from proxy import between

from yadtq.states import State

pytestmark = pytest.mark.real
BEFORE = ["before0", "before1"]  # one in each partition
MEANWHILE = [f"meanwhile{n}" for n in range(8)]


def test_the_other_takes_over_and_the_late_outcome_is_refused(stage: Stage, redis_url: str) -> None:
    stage.create(partitions=2)
    with between(redis_url) as proxy:
        cut_off = stage.worker("cut-off", "--runners", "1", "--redis", proxy.address)
        cut_off.says("assigned partition 1")
        with stage.observed():
            stage.submit(*((name, "nap", 3.0) for name in BEFORE))
            firsts = {name: stage.until_running(name) for name in BEFORE}
            proxy.cut()
            cut_ms = time.time() * 1000
            cut_off.says("unavailable")
            stage.submit(*((name, "nap", 0.1) for name in MEANWHILE))
            other = stage.worker("other", "--runners", "1")
            moved = other.says("taken_over partition [01] .*(before[01]) .*cut-off")[1]
            (stays,) = set(BEFORE) - {moved}
            again = stage.until_running(moved, attempt=2)
            stage.until(lambda: len(stage.finals(MEANWHILE)) == len(MEANWHILE) // 2)  # those of the other's partition
            healed_ms = time.time() * 1000
            proxy.heal()
            cut_off.says("reborn")
            cut_off.says(f"refused partition [01] .*{moved}")
            assert set(stage.until_final(BEFORE + MEANWHILE).values()) == {State.SUCCESS}
            stage.until_drained()
        for worker in (cut_off, other):
            worker.signal(signal.SIGTERM)
            worker.leaves(0)
    account = stage.account().check(duplicated={moved})
    assert account.counted[moved].pid == again.pid
    assert account.counted[stays].pid == firsts[stays].pid
    there = {run.pid for run in firsts.values()}
    # A claim may have been answered just before the cut, and its task then starts just after.
    started = [run for run in account.runs if run.pid in there and cut_ms + 300 < run.start_ms < healed_ms]
    assert started == []
