"""A runner may die at any moment, of anything: what had started is charged, nothing else is, and nothing is lost."""

import contextlib
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_app import lines
from runner_bench import Bench, alive, staged

import yadtq.runners.process
import yadtq.runners.staff
from waiting import eventually
from yadtq.attempt import Attempt, Ending
from yadtq.runners.frames import FromChild
from yadtq.runners.pace import Pace
from yadtq.runners.pool import PoolRunner
from yadtq.runners.process import RunnerProcess


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with staged(tmp_path, monkeypatch) as bench:
        yield bench


def look_far_ahead(patch: pytest.MonkeyPatch) -> None:
    """A runner is given 500 attempts beyond its slots, as if it had just finished many."""
    patch.setattr(Pace, "ahead", lambda *_: 500)


@pytest.fixture
def far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    look_far_ahead(monkeypatch)


@pytest.mark.usefixtures("far_ahead")
def test_a_killed_runner_costs_what_it_had_started_and_the_rest_runs_elsewhere(bench: Bench) -> None:
    with bench.pool(runners=2, slots=2) as pool:
        done = bench.attempts(100, "nothing")
        pool.start(done)
        bench.all_of(done)
        held = bench.attempts(4, "wait", bench.gate.path)
        pool.start(held)
        eventually(lambda: {attempt.number for attempt in held} <= set(bench.started))
        behind = bench.attempts(200, "whereabouts")
        pool.start(behind)
        killed = pool.pids[0]
        os.kill(killed, signal.SIGKILL)
        outcomes = bench.all_of(behind)
        assert {outcome.ending for outcome in outcomes} == {Ending.RETURNED}
        assert all(int(outcome.result or b"0") != killed for outcome in outcomes)
        bench.gate.open()
        endings = [outcome.ending for outcome in bench.all_of(held)]
        assert Counter(endings) == {Ending.DIED: 2, Ending.RETURNED: 2}
        died = next(bench.outcomes[a.number] for a in held if bench.outcomes[a.number].ending is Ending.DIED)
        assert "was ended by SIGKILL (signal 9)" in (died.error_log or "")
        assert died.started_at_ms <= died.finished_at_ms
        assert Counter(kind for kind, _ in bench.events)["runner_died"] == 1
    assert not bench.recalled


@pytest.mark.usefixtures("far_ahead")
@pytest.mark.parametrize(
    ("count", "ran"),
    [
        (0, "it ran no task"),
        (1, "it ran 1 task, charged with a death: t1"),
        (7, "it ran 7 tasks, charged with a death: t1, t2, t3, t4, t5 and 2 more"),
    ],
)
def test_what_a_dead_runner_ran_is_told_by_number_and_name(bench: Bench, count: int, ran: str) -> None:
    with bench.pool(runners=1, slots=7) as pool:
        held = bench.attempts(count, "wait", bench.gate.path)
        pool.start(held)
        eventually(lambda: len(bench.started) == count)
        if count == 7:  # all slots are held: these are given to the runner and do not start
            pool.start(bench.attempts(3, "nothing"))
        os.kill(pool.pids[0], signal.SIGKILL)
        said = eventually(lambda: bench.said("runner_died"))
    assert said[0].endswith(f"for want of memory; {ran}")


@pytest.mark.parametrize(
    ("task", "said"), [("crash", "was ended by SIGSEGV (signal 11)"), ("leave_at_once", "by itself with exit code 3")]
)
def test_code_that_ends_its_process_is_told_how(bench: Bench, task: str, said: str) -> None:
    with bench.pool(runners=1, slots=1) as pool:
        for _ in range(3):
            outcome = bench.run(pool, bench.attempt(task))
            assert outcome.ending is Ending.DIED
            assert said in (outcome.error_log or "")
            assert bench.run(pool, bench.attempt("double", 4)).result == b"8", "no new runner"


def test_a_crash_prints_the_frames_of_its_own_thread_only(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    with bench.pool(runners=1, slots=4) as pool:
        assert bench.run(pool, bench.attempt("crash")).ending is Ending.DIED
    said = capfd.readouterr().err
    assert (said.count(" in crash"), said.count(" in _send")) == (1, 0)


def test_a_runner_that_is_killed_is_replaced_and_its_task_can_run_again_within_a_second(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1) as pool:
        held = bench.attempt("wait", bench.gate.path)
        pool.start([held])
        eventually(lambda: held.number in bench.started)
        os.kill(pool.pids[0], signal.SIGKILL)
        assert bench.outcome(held, 1).ending is Ending.DIED
        again = bench.attempt("double", 1)
        pool.start([again])
        bench.outcome(again, 3)  # 0.2 s on a machine with nothing else to do


def test_tasks_that_end_their_process_do_not_hold_up_the_others_as_code_that_cannot_start_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BACKOFF_S", "BACKOFF_MOST_S"):
        monkeypatch.setattr(yadtq.runners.staff, name, 1e6)
    with bench.pool(runners=1, slots=1) as pool:
        for _ in range(3):
            assert bench.run(pool, bench.attempt("crash")).ending is Ending.DIED
        assert bench.run(pool, bench.attempt("double", 4)).result == b"8"


@pytest.mark.parametrize("task", ["with_family", "with_heir"])
def test_what_user_code_started_neither_hides_a_death_nor_outlives_it(bench: Bench, tmp_path: Path, task: str) -> None:
    witness = tmp_path / "witness"
    with bench.pool(runners=1, slots=1) as pool:
        held = bench.attempt(task, str(witness), bench.gate.path)
        pool.start([held])
        runner, relative = map(int, eventually(lambda: lines(witness))[0].split())
        os.kill(runner, signal.SIGKILL)
        assert bench.outcome(held, 2).ending is Ending.DIED
        if task == "with_heir":  # it has left the group, which is its right
            assert alive(relative)
            os.kill(relative, signal.SIGKILL)
        else:
            eventually(lambda: not alive(relative), 1)


def be_deaf(patch: pytest.MonkeyPatch) -> threading.Event:
    """Until this is set, the worker hears nothing of a runner while it lives."""
    receive, hears = RunnerProcess.receive, threading.Event()

    def listen(child: RunnerProcess) -> list[FromChild]:
        return [] if child.flights and alive(child.pid) and not hears.is_set() else receive(child)

    patch.setattr(RunnerProcess, "receive", listen)
    return hears


@pytest.fixture
def hears(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    return be_deaf(monkeypatch)


@pytest.mark.usefixtures("far_ahead", "hears")
def test_an_outcome_that_a_dead_runner_had_sent_counts(bench: Bench, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with bench.pool(runners=1, slots=1) as pool:
        attempts = [bench.attempt("witnessed", str(witness), n) for n in range(20)]
        held = bench.attempt("wait_noted", str(witness), bench.gate.path)
        pool.start([*attempts, held])
        eventually(lambda: "waits" in lines(witness))
        eventually(lambda: nothing_unsent(pool.pids[0]))
        os.kill(pool.pids[0], signal.SIGKILL)
        assert {outcome.ending for outcome in bench.all_of(attempts)} == {Ending.RETURNED}
        assert bench.outcome(held).ending is Ending.DIED
    assert Counter(lines(witness))["start 7"] == 1
    assert len(lines(witness)) == 41


@pytest.mark.usefixtures("far_ahead")
def test_what_had_ended_in_a_dead_runner_that_could_not_say_so_is_lost_and_does_not_start_again(
    bench: Bench, tmp_path: Path, hears: threading.Event
) -> None:
    witness = tmp_path / "witness"
    with bench.pool(runners=1, slots=1, limit_bytes=1 << 21) as pool:
        attempts = bench.attempts(8, "echo_noted", str(witness), "x" * (1 << 20))  # more than the socket takes
        held = bench.attempt("wait_noted", str(witness), bench.gate.path)
        pool.start([*attempts, held])
        eventually(lambda: "waits" in lines(witness))
        os.kill(pool.pids[0], signal.SIGKILL)
        hears.set()
        lost = [outcome for outcome in bench.all_of(attempts) if outcome.ending is Ending.LOST]
        assert {outcome.ending for outcome in bench.outcomes.values()} == {Ending.RETURNED, Ending.LOST, Ending.DIED}
        assert bench.outcome(held).ending is Ending.DIED
    said = "it had ended, and its runner was ended by SIGKILL (signal 9)"
    assert all((outcome.error_log or "").startswith(said) and outcome.result is None for outcome in lost)
    assert set(bench.started) == {attempt.number for attempt in [*attempts, held]}
    assert not bench.recalled
    assert len(lines(witness)) == 9, "under its number and its fence nothing runs twice (I5)"


def nothing_unsent(pid: int) -> bool:
    """Every thread of a process sleeps: what it has to say is said."""
    return all(
        Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0] == "S"
        for thread in os.listdir(f"/proc/{pid}/task")
    )


@pytest.mark.parametrize("how", ["stopped", "held"])
def test_a_runner_that_does_not_answer_is_killed_and_its_tasks_run_elsewhere(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(yadtq.runners.process, "SILENT_LOOKS", 20)
    with bench.pool(runners=2, slots=2) as pool:
        bad = (
            bench.attempt("wait", bench.gate.path)
            if how == "stopped"
            else bench.attempt("hold_the_interpreter_for", 600)
        )
        pool.start([bad])
        eventually(lambda: bad.number in bench.started)
        if how == "stopped":
            for pid in pool.pids:  # which of the two has it, nobody knows
                os.kill(pid, signal.SIGSTOP)
        others = bench.attempts(20, "double", 1)
        pool.start(others)
        died = bench.outcome(bad)
        assert died.ending is Ending.DIED
        assert "was killed: it did not answer for 10 s; it was stopped, or a task" in (died.error_log or "")
        assert {outcome.ending for outcome in bench.all_of(others)} == {Ending.RETURNED}, "they had not started"


def test_a_runner_whose_tasks_take_their_time_is_left_alone_and_so_is_what_runs_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yadtq.runners.process, "SILENT_LOOKS", 20)
    with bench.pool(runners=1, slots=2) as pool:
        patient = bench.attempt("wait", bench.gate.path)
        alone = bench.alone("hold_the_interpreter_for", 4)
        pool.start([patient, alone])
        assert bench.outcome(alone).ending is Ending.RETURNED
        bench.gate.open()
        assert bench.outcome(patient).ending is Ending.RETURNED
    assert not bench.said("runner_died")


class Kills:
    """Keeps a pool busy, kills a runner after every so many outcomes, and starts again what was charged."""

    def __init__(self, bench: Bench, pool: PoolRunner, witness: Path, chance: random.Random) -> None:
        self.bench, self.pool, self.witness, self.chance = bench, pool, str(witness), chance
        self.numbers: list[int] = []
        self.kills = 0
        self.next_at = 0

    def attempt(self) -> Attempt:
        attempt = self.bench.attempt("witnessed", self.witness, len(self.numbers) + 1)
        assert attempt.number == len(self.numbers) + 1
        self.numbers.append(attempt.number)
        return attempt

    def turn(self) -> bool:
        if room := self.pool.room():
            self.pool.start([self.attempt() for _ in range(room)])
        if len(self.bench.outcomes) >= self.next_at and (pids := self.pool.pids):
            with contextlib.suppress(ProcessLookupError):  # dead and buried, and still on the list for a moment
                os.kill(self.chance.choice(pids), signal.SIGKILL)
                self.kills += 1
            self.next_at = len(self.bench.outcomes) + self.chance.randrange(1, 60)
        return self.kills >= 200


@pytest.mark.slow
def test_through_200_kills_no_start_is_missed_and_no_attempt_is_lost(bench: Bench, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    witness = tmp_path / "witness"
    with bench.pool(runners=3, slots=4) as pool:
        kills = Kills(bench, pool, witness, random.Random(seed))
        eventually(kills.turn, 110)
        eventually(lambda: len(bench.outcomes) == len(kills.numbers), 30)
    seen = Counter(lines(witness))
    for number in kills.numbers:
        starts, ends = seen[f"start {number}"], seen[f"end {number}"]
        ending = bench.outcomes[number].ending
        assert ending in (Ending.RETURNED, Ending.DIED, Ending.LOST), f"seed {seed}: {bench.outcomes[number]}"
        assert starts <= 1, f"seed {seed}: {number} began twice under one number (I5)"
        assert starts - ends in ((0, 1) if ending is Ending.DIED else (0,)), f"seed {seed}: {number} began unseen"
        assert ends or ending is Ending.DIED, f"seed {seed}: {number} never ran"
    assert len(kills.numbers) > 1_000
    assert Counter(o.ending for o in bench.outcomes.values())[Ending.DIED] <= 200 * 4
