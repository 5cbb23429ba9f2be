"""What runs alone can be ended alone: by its time limit, or by itself."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from runner_app import lines
from runner_bench import Bench, alive, staged

import yadtq.runners.staff
from waiting import eventually
from yadtq.attempt import Attempt, Ending, Place
from yadtq.runners.pool import SUSPECTS_MOST, PoolRunner, Solo


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with staged(tmp_path, monkeypatch) as bench:
        yield bench


def held(bench: Bench, pool: PoolRunner, task: str, count: int) -> list[Attempt]:
    attempts = bench.attempts(count, task, bench.gate.path)
    pool.start(attempts)
    eventually(lambda: {attempt.number for attempt in attempts} <= set(bench.started))
    return attempts


@pytest.mark.parametrize("task", ["spin", "linger", "linger_in_c"])
def test_a_task_past_its_time_limit_is_ended_within_two_seconds_and_nothing_else(
    bench: Bench, tmp_path: Path, task: str
) -> None:
    with bench.pool(runners=1, slots=2) as pool:
        neighbours = held(bench, pool, "wait", 1) + held(bench, pool, "alone", 1)
        late = bench.attempt(task, *([str(tmp_path / "witness")] if task == "linger_in_c" else []))
        pool.start([late])
        eventually(lambda: late.number in bench.started)
        outcome = bench.outcome(late, 2.5)  # 0.6 s on a machine with nothing else to do
        assert (outcome.ending, outcome.error_log) == (Ending.TIMED_OUT, "ended by its time limit of 0.5 s")
        assert outcome.finished_at_ms - outcome.started_at_ms >= 500
        ended = eventually(lambda: bench.said("runner_ended"))
        assert f"was killed: its task {late.task_id} has a time limit of 0.5 s" in ended[0]
        bench.gate.open()
        assert {outcome.ending for outcome in bench.all_of(neighbours)} == {Ending.RETURNED}
        assert bench.run(pool, bench.attempt("alone", bench.gate.path)).ending is Ending.RETURNED
    assert not bench.said("runner_died")


def test_what_ends_before_its_time_limit_is_left_alone(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1) as pool:
        quick = bench.attempt("spin")
        pool.start([replace(quick, task_type="whereabouts", time_limit_s=30.0)])
        assert bench.outcome(quick).ending is Ending.RETURNED
        assert pool.solo_pids == [int(bench.outcome(quick).result or b"0")]


def test_a_task_that_has_ended_a_runner_takes_nobody_with_it_when_it_does_so_again(bench: Bench) -> None:
    with bench.pool(runners=1, slots=2) as pool:
        pid = pool.pids[0]
        neighbours = held(bench, pool, "wait", 1)
        other = held(bench, pool, "alone", 1)
        for task in ("crash", "leave_at_once"):
            assert bench.run(pool, bench.suspect(task)).ending is Ending.DIED
        assert pool.pids == [pid]
        bench.gate.open()
        assert {outcome.ending for outcome in bench.all_of(neighbours + other)} == {Ending.RETURNED}


def test_all_that_ran_in_one_dead_runner_runs_again_side_by_side_each_in_a_process_of_its_own(bench: Bench) -> None:
    with bench.pool(runners=1, slots=16, solo=Solo(1)) as pool:
        victims = held(bench, pool, "wait", 16)
        killed = pool.pids[0]
        os.kill(killed, signal.SIGKILL)
        assert {outcome.ending for outcome in bench.all_of(victims)} == {Ending.DIED}
        assert pool.room("suspect") == 16
        again = [bench.suspect("wait", bench.gate.path) for _ in range(19)]
        pool.start(again)
        eventually(lambda: {attempt.number for attempt in again[:16]} <= set(bench.started), 30)
        assert pool.room("suspect") == 0
        held(bench, pool, "alone", 1)  # it has a place of its own
        os.kill(pool.solo_pids[-1], signal.SIGKILL)
        (died,) = eventually(lambda: [number for number in bench.outcomes if number >= again[0].number])
        assert bench.outcomes[died].ending is Ending.DIED
        eventually(lambda: again[16].number in bench.started)
        assert not {attempt.number for attempt in again[17:]} & set(bench.started), "more than fit into one runner wait"
        bench.gate.open()
        ended = [outcome for outcome in bench.all_of(again) if outcome.number != died]
        assert {outcome.ending for outcome in ended} == {Ending.RETURNED}
        pids = {int(outcome.result or b"0") for outcome in ended}
        assert len(pids) >= 16, "two of them were in one process"
        assert not pids & {killed, *pool.pids}


def test_so_many_suspects_run_at_a_time_as_is_said(bench: Bench) -> None:
    with bench.pool(runners=1, slots=SUSPECTS_MOST + 1) as pool:
        assert pool.room("suspect") == SUSPECTS_MOST
    with bench.pool(runners=1, slots=2, solo=Solo(1, suspects=5)) as pool:
        assert (pool.room("suspect"), pool.room("solo")) == (5, 1)


def test_what_waits_to_run_alone_takes_no_room_from_the_others_and_can_be_recalled(bench: Bench) -> None:
    with bench.pool(runners=1, slots=2, solo=Solo(2)) as pool:
        assert (pool.room(), pool.room("solo")) == (2, 2)
        running = held(bench, pool, "alone", 2)
        waiting = bench.attempts(5, "alone", bench.gate.path)
        pool.start(waiting)
        assert (pool.room(), pool.room("solo")) == (2, 0)
        others = bench.attempts(100, "double", 1)
        pool.start(others)
        bench.all_of(others)
        assert len(pool.solo_pids) == 2
        pool.recall([attempt.number for attempt in waiting[:3] + running])
        eventually(lambda: len(bench.recalled) == 3)
        assert set(bench.recalled) == {attempt.number for attempt in waiting[:3]}
        bench.gate.open()
        pids = {outcome.result for outcome in bench.all_of(running + waiting[3:])}
        assert len(pids) == 2, "they take turns in two processes"
        assert b"%d" % pool.pids[0] not in pids


@pytest.mark.parametrize("place", ["solo", "suspect"])
def test_a_runner_of_its_own_runs_one_task_at_a_time_however_quick_they_are(
    bench: Bench, tmp_path: Path, place: Place
) -> None:
    witness = tmp_path / "witness"
    with bench.pool(runners=1, slots=1, solo=Solo(1)) as pool:
        attempts = [replace(bench.attempt("crowd", str(witness)), place=place) for _ in range(100)]
        pool.start(attempts)
        bench.all_of(attempts)
    assert lines(witness) == ["in", "out"] * 100


def test_processes_come_with_the_work_and_go_when_there_is_none(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yadtq.runners.staff, "IDLE_S", 0.3)
    with bench.pool(runners=1, slots=1, solo=Solo(3)) as pool:
        assert pool.solo_pids == []
        attempts = held(bench, pool, "alone", 3)
        pids = pool.solo_pids
        assert len(pids) == 3
        bench.gate.open()
        bench.all_of(attempts)
        eventually(lambda: not any(alive(pid) for pid in pids))
        eventually(lambda: len(bench.said("runner_ended")) == 3)


def test_a_spare_process_is_kept_beside_those_at_work(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yadtq.runners.staff, "IDLE_S", 0.3)
    with bench.pool(runners=1, slots=1, solo=Solo(3, spare=True)) as pool:
        (first,) = eventually(lambda: pool.solo_pids)
        attempts = held(bench, pool, "alone", 1)
        eventually(lambda: len(pool.solo_pids) == 2)
        attempts += held(bench, pool, "alone", 2)
        assert len(pool.solo_pids) == 3, "never more than may run"
        assert first in pool.solo_pids
        bench.gate.open()
        bench.all_of(attempts)
        eventually(lambda: len(pool.solo_pids) == 1)


def test_runners_of_one_task_are_replaced_and_end_like_the_others(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1, solo=Solo(2, spare=True)) as pool:
        old = eventually(lambda: pool.solo_pids)
        running = held(bench, pool, "alone", 1)
        pool.replace()
        eventually(lambda: pool.solo_pids and not set(old) & set(pool.solo_pids))
        assert alive(old[0]), "it finishes what it runs"
        waiting = bench.attempts(3, "alone", bench.gate.path)
        pool.start(waiting)
        assert not pool.close(0.01)
        bench.gate.open()
        assert pool.close(30)
        assert bench.outcome(running[0]).ending is Ending.RETURNED
        for attempt in waiting:
            assert attempt.number in bench.recalled or bench.outcomes[attempt.number].ending is Ending.RETURNED
        assert not pool.solo_pids
        assert not alive(old[0])


def test_a_stopped_process_holds_up_only_what_it_runs(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1, solo=Solo(2, spare=True)) as pool:
        (stopped,) = eventually(lambda: pool.solo_pids)
        os.kill(stopped, signal.SIGSTOP)
        attempts = [bench.alone("double", n) for n in range(6)]
        pool.start(attempts)
        eventually(lambda: len(bench.outcomes) >= 5)
        os.kill(stopped, signal.SIGKILL)
        assert {outcome.ending for outcome in bench.all_of(attempts)} == {Ending.RETURNED}
