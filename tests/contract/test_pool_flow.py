"""Work flows to the runner that can do it: one that is slow, stopped or choked holds up nobody."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_app import lines
from runner_bench import Bench, Gate, staged

import yadtq.runners.process
from waiting import eventually
from yadtq.attempt import Attempt, Ending
from yadtq.runners.pace import Pace
from yadtq.runners.pool import PoolRunner


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with staged(tmp_path, monkeypatch) as bench:
        yield bench


def hold(bench: Bench, pool: PoolRunner, slots: int) -> list[Attempt]:
    held = bench.attempts(slots, "wait", bench.gate.path)
    pool.start(held)
    eventually(lambda: {attempt.number for attempt in held} <= set(bench.started))
    return held


def test_a_stopped_runner_holds_up_neither_the_worker_nor_its_sibling(bench: Bench) -> None:
    with bench.pool(runners=2, slots=2) as pool:
        stopped = pool.pids[0]
        os.kill(stopped, signal.SIGSTOP)
        attempts = bench.attempts(3_000, "echo", "x" * 900)
        longest_s = 0.0
        for attempt in attempts:
            before = time.monotonic()
            pool.start([attempt])
            longest_s = max(longest_s, time.monotonic() - before)
        assert longest_s < 1.0
        eventually(lambda: len(bench.outcomes) >= 3_000 - 2, 60)  # its two slots were free when it was stopped
        eventually(lambda: pool.room() >= 2)
        os.kill(stopped, signal.SIGCONT)
        assert {outcome.ending for outcome in bench.all_of(attempts)} == {Ending.RETURNED}


def test_a_stopped_runner_with_megabytes_before_it_holds_up_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "ahead", lambda *_: 500)
    with bench.pool(runners=2, slots=2, limit_bytes=1 << 21) as pool:
        stopped = pool.pids[0]
        os.kill(stopped, signal.SIGSTOP)
        attempts = bench.attempts(40, "echo", "x" * (1 << 20))
        pool.start(attempts)
        eventually(lambda: len(bench.outcomes) >= 30, 60)
        os.kill(stopped, signal.SIGKILL)
        assert {outcome.ending for outcome in bench.all_of(attempts)} == {Ending.RETURNED}, "it had started nothing"


def test_500_tasks_behind_held_slots_move_to_an_idle_runner_within_a_second(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.pool(runners=1, slots=2) as pool:
        held = hold(bench, pool, 2)
        monkeypatch.setattr(Pace, "ahead", lambda *_: 500)
        behind = bench.attempts(500, "whereabouts")
        pool.start(behind)
        assert pool.room() == 0
        # The other runner comes late: all 500 lie behind the held slots of the first.
        holder = pool.pids[0]
        pool.replace()
        eventually(lambda: pool.pids and pool.pids != [holder], 20)
        outcomes = bench.all_of(behind, 1)
        assert all(int(outcome.result or b"0") != holder for outcome in outcomes)
        assert not bench.recalled
        bench.gate.open()
        assert {outcome.ending for outcome in bench.all_of(held)} == {Ending.RETURNED}


def test_tasks_behind_held_slots_move_to_a_runner_that_becomes_idle(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.pool(runners=2, slots=1) as pool:
        hold(bench, pool, 2)
        monkeypatch.setattr(Pace, "ahead", lambda *_: 500)
        behind = bench.attempts(1_000, "whereabouts")
        pool.start(behind)
        os.kill(pool.pids[0], signal.SIGKILL)
        eventually(lambda: len(pool.pids) == 2)
        bench.all_of(behind, 3)
        assert not bench.recalled


def test_what_waits_behind_a_held_slot_goes_to_a_sibling_with_a_free_one_before_anything_is_stale(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yadtq.runners.process, "STALE_S", 1e9)
    monkeypatch.setattr(yadtq.runners.process, "SLOW_S", 0.0)
    other = Gate(tmp_path / "other")
    with bench.pool(runners=2, slots=1) as pool:
        held = hold(bench, pool, 1)
        freed = bench.attempt("wait", other.path)
        pool.start([freed])
        monkeypatch.setattr(Pace, "ahead", lambda *_: 500)
        behind = bench.attempts(100, "whereabouts")
        pool.start(behind)
        other.open()
        free = bench.outcome(freed).result
        assert {outcome.result for outcome in bench.all_of(behind)} == {free}
        assert not bench.recalled
        bench.gate.open()
        assert bench.all_of(held)[0].result != free


def test_a_recall_of_what_lies_in_a_runner_is_answered_by_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.pool(runners=1, slots=2) as pool:
        held = hold(bench, pool, 2)
        monkeypatch.setattr(Pace, "ahead", lambda *_: 500)
        behind = bench.attempts(700, "nothing")
        pool.start(behind)
        numbers = [attempt.number for attempt in behind]
        pool.recall([*numbers, *(attempt.number for attempt in held), 10**9])
        pool.recall(numbers)
        eventually(lambda: len(bench.recalled) == 700)
        assert sorted(bench.recalled) == numbers
        bench.gate.open()
        assert {outcome.ending for outcome in bench.all_of(held)} == {Ending.RETURNED}
        assert not set(numbers) & set(bench.started)
        again = behind[:10]  # the engine claims again under the same numbers
        pool.start(again)
        assert {outcome.ending for outcome in bench.all_of(again)} == {Ending.RETURNED}


def test_what_a_dead_runner_had_been_asked_back_is_given_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.pool(runners=1, slots=1) as pool:
        held = hold(bench, pool, 1)
        monkeypatch.setattr(Pace, "ahead", lambda *_: 500)
        behind = bench.attempts(20, "nothing")
        pool.start(behind)
        os.kill(pool.pids[0], signal.SIGSTOP)
        pool.recall([attempt.number for attempt in behind])
        os.kill(pool.pids[0], signal.SIGKILL)
        assert bench.all_of(held)[0].ending is Ending.DIED
        eventually(lambda: len(bench.recalled) == 20)


def test_megabytes_in_both_directions_do_not_lock_each_other_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "ahead", lambda *_: 500)
    with bench.pool(runners=2, slots=4, limit_bytes=1 << 21) as pool:
        attempts = bench.attempts(200, "echo", "x" * (1 << 20))
        pool.start(attempts)
        outcomes = bench.all_of(attempts, 100)
        assert {(outcome.ending, len(outcome.result or b"")) for outcome in outcomes} == {
            (Ending.RETURNED, (1 << 20) + 2)
        }


def test_no_more_coroutines_run_at_a_time_than_there_are_slots(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "ahead", lambda *_: 500)
    witness = tmp_path / "witness"
    with bench.pool(runners=1, slots=3) as pool:
        attempts = bench.attempts(200, "crowd", str(witness))
        pool.start(attempts)
        bench.all_of(attempts)
    inside = most = 0
    for line in lines(witness):
        inside += 1 if line == "in" else -1
        most = max(most, inside)
    assert most == 3


def test_an_unknown_task_ends_in_an_outcome(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1) as pool:
        outcome = bench.run(pool, bench.attempt("of_yesterday"))
        assert outcome.ending is Ending.RAISED
        assert "has no task 'of_yesterday'" in (outcome.error_log or "")
