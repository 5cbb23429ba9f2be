"""A worker that stood still for longer than its lease is taken over; what it still had counts for nothing."""

import json
import signal

import pytest
from drama import Stage

pytestmark = pytest.mark.real
NAP_S = 3.0


def test_the_new_owners_outcome_is_the_only_one(stage: Stage) -> None:
    stage.create(partitions=2)
    frozen = stage.worker("frozen")
    frozen.says("assigned partition 1")
    with stage.observed():
        stage.submit(("victim", "nap", NAP_S))
        stage.until_running("victim")
        frozen.signal(signal.SIGSTOP)
        other = stage.worker("other")
        other.says("taken_over partition 0 victim frozen")
        assert stage.until_running("victim", attempt=2).pid == other.pid
        frozen.signal(signal.SIGCONT)  # its nap is over long ago: its outcome comes before the new owner's
        frozen.says("reborn .* a beat came later than 3 s")
        frozen.says("refused partition 0 victim")
        stage.until_final(["victim"])
        assert result(stage, "victim") == other.pid

        stage.until(lambda: stage.partitions_of("frozen") and stage.partitions_of("other"))
        later = [f"later{n}" for n in range(6)]
        stage.submit(*((name, "nap", 0.1) for name in later))
        stage.until_final(later)
        stage.until_committed({0: 4, 1: 3})
    assert {result(stage, name) for name in later} == {frozen.pid, other.pid}

    account = stage.account().check(duplicated={"victim"})
    assert [(run.pid, run.attempt) for run in account.of_task("victim")] == [(frozen.pid, 1), (other.pid, 2)]
    assert account.of_task("victim")[0].end_ms is not None, "the zombie did not come to its end: void"
    (outcome,) = account.outcomes["victim"]
    assert (outcome.worker, outcome.attempts, json.loads(bytes(outcome.result))) == ("other", 2, other.pid)
    for worker in (frozen, other):
        worker.signal(signal.SIGTERM)
        worker.leaves(0)


def result(stage: Stage, task_id: str) -> int:
    record = stage.record(task_id)
    assert record is not None
    return int(record.result or b"0")
