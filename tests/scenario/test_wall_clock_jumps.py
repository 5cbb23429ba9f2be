"""The wall clock of a worker's host jumps an hour ahead, then behind: nothing starts early, and no lease is lost."""

import time
from pathlib import Path

import pytest
from drama import ALLOWED_S, Stage

from yadtq.states import State

pytestmark = pytest.mark.real
HOUR_S = 3_600
DELAY_S = 2.0
TIME = r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)"  # of a line of the log
LATE_MS = 15_000
RUNNING = ["running0", "running1"]


def test_redis_decides_what_time_it_is(stage: Stage, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    stage.create(partitions=2)
    odd = stage.worker("odd", "--runners", "1", env={"WALL_CLOCK": str(clock)})
    other = stage.worker("other", "--runners", "1")
    stage.until_each_has(1, "odd", "other")
    waiting: dict[str, float] = {}  # task id -> epoch ms before which it must not start
    again: list[str] = []
    with stage.observed():
        stage.submit(*((name, "nap", 2 * ALLOWED_S) for name in RUNNING))
        for name in RUNNING:
            stage.until_running(name)
        for jump_s in (HOUR_S, -HOUR_S):
            clock.write_text(str(jump_s))
            due_ms = (time.time() + DELAY_S) * 1000
            now = {f"waiting{jump_s}-{n}": due_ms for n in range(8)}
            stage.submit(*((name, "add", 1, 1) for name in now), at_ms=int(due_ms) + 1)
            # A retry that waits is planned by whoever ran the first attempt, on either host.
            retried = [f"again{jump_s}-{n}" for n in range(4)]
            stage.submit(*((name, "once_more", DELAY_S) for name in retried))
            stage.submit((f"far{jump_s}", "add", 1, 1), delay_s=HOUR_S // 2)
            stage.until_final([*now, *retried])
            waiting |= now
            again += retried
        stage.until_final(RUNNING)
        assert [worker.status for worker in stage.app.ledger.workers()] == ["ALIVE", "ALIVE"]
        assert stage.finals([f"far{HOUR_S}", f"far{-HOUR_S}"]) == {}, "half an hour early"
        stage.until_drained()
    account = stage.account()
    assert (account.lost, account.contradicted) == (set(), set()), account
    assert account.duplicated == set(again), "only what asked for it runs again"
    assert set(account.states.values()) == {State.SUCCESS}
    for name, due_ms in waiting.items():
        (run,) = account.of_task(name)
        assert due_ms <= run.start_ms < due_ms + LATE_MS
    for name in again:
        first, second = account.of_task(name)
        assert second.start_ms - (first.end_ms or 0) >= DELAY_S * 1000 - 1
    mine = [{run.pid for run in account.runs if run.task_id in names} for names in (RUNNING, [*waiting, *again])]
    assert len(mine[0]) == 2
    assert mine[0] <= mine[1], "one of them ran nothing meanwhile: void"
    told_s = [time.mktime(time.strptime(at, "%Y-%m-%d %H:%M:%S")) - time.time() for at in odd.said(TIME)]
    assert min(told_s) < -HOUR_S / 2 < HOUR_S / 2 < max(told_s), "its clock did not jump: void"
    for worker in (odd, other):
        assert worker.said("reborn|taken_over|refused|lost ") == []
        worker.interrupt()
        worker.leaves(0)
