"""A worker that stood still for longer than its lease is taken over; what it still had counts for nothing."""

import json
import signal
import time

import pytest
from drama import ALLOWED_S, Stage
from storm import PAUSE_MS, runners_of

pytestmark = pytest.mark.real
NAP_S = 3.0


@pytest.mark.parametrize("runners", ["0", "1"])  # user code stands still with its worker, or runs on in a child
def test_the_new_owners_outcome_is_the_only_one(stage: Stage, runners: str) -> None:
    stage.create(partitions=2)
    frozen = stage.worker("frozen", "--runners", runners)
    frozen.says("assigned partition 1")
    with stage.observed():
        stage.submit(("victim", "nap", NAP_S))
        stage.until_running("victim")
        frozen.signal(signal.SIGSTOP)
        other = stage.worker("other", "--runners", runners)
        other.says("taken_over partition 0 .*victim .*frozen")
        again = stage.until_running("victim", attempt=2)
        frozen.signal(signal.SIGCONT)  # its nap is over long ago: its outcome comes before the new owner's
        frozen.says("reborn .*a beat came later than 3 s")
        frozen.says("refused partition 0 .*victim")
        stage.until_final(["victim"])
        assert result(stage, "victim") == again.pid

        stage.until(lambda: stage.partitions_of("frozen") and stage.partitions_of("other"))
        later = [f"later{n}" for n in range(6)]
        stage.submit(*((name, "nap", 0.1) for name in later))
        stage.until_final(later)
        stage.until_committed({0: 4, 1: 3})
    account = stage.account().check(duplicated={"victim"})
    first, second = account.of_task("victim")
    assert first.end_ms is not None, "the zombie did not come to its end: void"
    assert (first.attempt, second.attempt, second.pid) == (1, 2, again.pid)
    assert first.pid != second.pid
    (outcome,) = account.outcomes["victim"]
    assert (outcome.worker, outcome.attempts, json.loads(bytes(outcome.result))) == ("other", 2, again.pid)
    assert {account.outcomes[name][0].worker for name in later} == {"frozen", "other"}
    for worker in (frozen, other):
        worker.signal(signal.SIGTERM)
        worker.leaves(0)


def test_its_runners_stop_starting_when_its_lease_is_over_and_nothing_it_had_claimed_starts_later(stage: Stage) -> None:
    """They live on while it stands still, with many tasks in their memory: after quick ones it hands on slow ones."""
    stage.create(partitions=1)
    frozen = stage.worker("frozen", "--runners", "1", "--concurrency", "2")
    frozen.says("assigned partition")
    quick, slow = [f"quick{n}" for n in range(1_000)], [f"slow{n}" for n in range(150)]
    with stage.observed():
        stage.submit(*((name, "add", 1, 2) for name in quick), *((name, "nap", 0.3) for name in slow))
        stage.until_running("slow0")
        pids = runners_of(frozen)
        frozen.signal(signal.SIGSTOP)
        stopped_ms = time.time() * 1_000
        other = stage.worker("other", "--runners", "2")
        stage.until_final(slow)
        continued_ms = time.time() * 1_000
        frozen.signal(signal.SIGCONT)
        frozen.says("reborn .*a beat came later than 3 s")
        stage.until(lambda: stage.partitions_of("frozen") or stage.partitions_of("other"))
        stage.submit(("last", "nap", 0.1))
        stage.until_final(["last"])
        for worker in (frozen, other):
            worker.signal(signal.SIGTERM)
            worker.leaves(0)
    account = stage.account().check()
    starts_ms = [run.start_ms for run in account.runs if run.pid in pids and run.task_id in slow]
    went_on = [at_ms for at_ms in starts_ms if at_ms > stopped_ms]
    assert went_on, "its runners stood still too: void"
    over_ms = stopped_ms + 1_000 * ALLOWED_S
    assert continued_ms > over_ms + PAUSE_MS, "it went on at once: void"
    assert max(starts_ms) <= over_ms + PAUSE_MS
    never_started = [name for name in slow if account.attempts[name] == 2 and len(account.of_task(name)) == 1]
    assert never_started, "nothing was left in the memory of its runners: void"


def result(stage: Stage, task_id: str) -> int:
    record = stage.record(task_id)
    assert record is not None
    return int(record.result or b"0")
