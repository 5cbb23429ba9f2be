"""What a child has buffered starts while the lease under which it was claimed holds, and not a moment longer (C6)."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runner_app import lines
from runner_bench import Bench, lease, staged

from waiting import eventually
from yadtq.attempt import Attempt, Ending, Lease
from yadtq.runners.frames import FromChild
from yadtq.runners.pace import Pace
from yadtq.runners.pool import PoolRunner
from yadtq.runners.process import RunnerProcess
from yadtq.service import SystemClock

RETURNED_BYTES = 8  # the least that a child says about one job that it gives back


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with staged(tmp_path, monkeypatch) as bench:
        yield bench


@contextmanager
def full(bench: Bench, task: str, count: int = 100) -> Iterator[tuple[PoolRunner, list[Attempt]]]:
    """A pool whose one child runs two tasks until the gate is open, and has so many more in its memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "ahead", lambda *_: 500)
        with bench.pool(runners=1, slots=2) as pool:
            held = bench.attempts(2, "wait_async" if task.endswith("_async") else "wait", bench.gate.path)
            pool.start(held)
            eventually(lambda: len(bench.started) == 2)
            behind = [bench.attempt(task, bench.gate.path + ".ran", n) for n in range(count)]
            pool.start(behind)
            yield pool, behind
            assert [outcome.ending for outcome in bench.all_of(held)] == [Ending.RETURNED] * 2, "what runs, runs on"


@contextmanager
def standing_still() -> Iterator[Callable[[int], bool]]:
    """The worker hears nothing of its children, as when it is stopped. Gives a way to ask for that many answers."""
    unread = 0

    def look(child: RunnerProcess) -> list[FromChild]:
        nonlocal unread
        unread = len(child.socket.recv(1 << 20, socket.MSG_PEEK))
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunnerProcess, "receive", look)
        yield lambda answers: unread >= answers * RETURNED_BYTES


def ran(bench: Bench) -> list[str]:
    return lines(Path(bench.gate.path + ".ran"))


def over(until: Lease) -> None:
    clock = SystemClock()
    eventually(lambda: clock.mono_s() > until.until_s)


@pytest.mark.parametrize("task", ["witnessed", "witnessed_async"])
def test_the_children_of_a_worker_that_stands_still_stop_starting_by_themselves(bench: Bench, task: str) -> None:
    with full(bench, task) as (pool, behind):
        with standing_still() as lie_there:
            pool.renew(short := lease(0.2))
            over(short)
            bench.gate.open()  # only now are there slots
            eventually(lambda: lie_there(len(behind)))
            assert ran(bench) == []
        eventually(lambda: len(bench.recalled) == len(behind))
        assert set(bench.recalled) == {attempt.number for attempt in behind}
        assert ran(bench) == []


def test_a_new_incarnation_starts_nothing_that_a_child_has_of_the_old_one(bench: Bench) -> None:
    with full(bench, "witnessed") as (pool, behind):
        pool.renew(lease(life="the next"))
        bench.gate.open()
        eventually(lambda: ran(bench) or len(bench.recalled) == len(behind))
        assert ran(bench) == []
        bench.life = "the next"
        assert bench.run(pool, bench.attempt("double", 4)).result == b"8"


def test_what_a_child_gave_back_runs_when_the_beat_came_after_all(bench: Bench) -> None:
    """Late by the worker's clock, and in time by Redis's: the claims are still its own."""
    with full(bench, "witnessed") as (pool, behind):
        with standing_still() as lie_there:
            pool.renew(short := lease(0.2))
            over(short)
            bench.gate.open()
            eventually(lambda: lie_there(len(behind)))
            pool.renew(lease())
        outcomes = bench.all_of(behind)
        assert {outcome.ending for outcome in outcomes} == {Ending.RETURNED}
        assert len(ran(bench)) == 2 * len(behind)
        assert not bench.recalled


def test_a_child_that_comes_later_has_the_present_lease(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1) as pool:
        os.kill(pool.pids[0], signal.SIGKILL)
        attempts = [bench.attempt("double", 4), bench.alone("double", 5)]
        pool.start(attempts)
        assert [outcome.result for outcome in bench.all_of(attempts, 10)] == [b"8", b"10"]
