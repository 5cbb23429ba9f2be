"""A worker that stood still for longer than its lease is taken over; what it still had counts for nothing."""

import json
import signal

import pytest
from drama import Stage

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
        other.says("taken_over partition 0 victim frozen")
        again = stage.until_running("victim", attempt=2)
        frozen.signal(signal.SIGCONT)  # its nap is over long ago: its outcome comes before the new owner's
        frozen.says("reborn .* a beat came later than 3 s")
        frozen.says("refused partition 0 victim")
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


def result(stage: Stage, task_id: str) -> int:
    record = stage.record(task_id)
    assert record is not None
    return int(record.result or b"0")
