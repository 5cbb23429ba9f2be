"""Every runner: what is started ends in an outcome or is recalled, whatever the user's code does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_bench import KINDS, Bench, lease, staged

from waiting import eventually
from yadtq.attempt import Ending, Lease, Outcome, Started
from yadtq.runners import Runner


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with staged(tmp_path, monkeypatch) as bench:
        yield bench


@pytest.fixture(params=KINDS)
def runner(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Runner]:
    made: Runner = request.param(bench.sink)
    yield made
    bench.gate.open()
    assert made.close(30)


@pytest.mark.parametrize("task", ["double", "double_async"])
def test_a_task_returns_its_result_as_json(runner: Runner, bench: Bench, task: str) -> None:
    outcome = bench.run(runner, bench.attempt(task, 21))
    assert (outcome.ending, outcome.result, outcome.error_log) == (Ending.RETURNED, b"42", None)
    assert outcome.started_at_ms <= outcome.finished_at_ms
    assert isinstance(bench.told[0], Started)
    assert len(bench.told) == 2


@pytest.mark.parametrize(
    ("task", "args", "ending", "said"),
    [
        ("double", b'["x"]', Ending.BAD_ARGUMENTS, "n: Expected `int`, got `str`"),
        ("double", b"[]", Ending.BAD_ARGUMENTS, "missing a required argument"),
        ("double_async", b"[1, 2]", Ending.BAD_ARGUMENTS, "too many positional arguments"),
        ("double", b"[\xff]", Ending.BAD_ARGUMENTS, "do not fit"),
        ("thing", b"[]", Ending.BAD_RESULT, "type 'object' cannot be written as JSON"),
        ("big", b"[]", Ending.BAD_RESULT, "2,002 bytes and the limit is 1,000"),
        ("leave", b"[]", Ending.RAISED, "SystemExit: 7"),
        ("leave_async", b"[]", Ending.RAISED, "SystemExit: 7"),
        ("endless", b"[0]", Ending.RAISED, "RecursionError"),
        ("rude", b"[]", Ending.RAISED, "RudeError"),
        ("long_error", b"[]", Ending.RAISED, "the end"),
    ],
)
def test_whatever_the_code_does_an_outcome_comes_back(
    runner: Runner, bench: Bench, task: str, args: bytes, ending: Ending, said: str
) -> None:
    outcome = bench.run(runner, bench.raw(task, args))
    assert outcome.ending is ending
    assert said in (outcome.error_log or "")
    assert len(outcome.error_log or "") < 33_000
    assert bench.run(runner, bench.attempt("double", 1)).result == b"2", "the slot did not survive"


def test_room_counts_what_waits_and_what_runs(runner: Runner, bench: Bench) -> None:
    assert runner.room() == 2
    attempts = bench.attempts(3, "wait", bench.gate.path)
    runner.start(attempts)
    assert runner.room() == 0
    bench.gate.open()
    bench.all_of(attempts)
    # What finished a moment ago may leave room beyond the slots for a moment.
    assert eventually(lambda: runner.room() == 2)


def test_a_recall_gives_back_what_has_not_started_and_leaves_what_runs(runner: Runner, bench: Bench) -> None:
    attempts = bench.attempts(4, "wait", bench.gate.path)
    runner.start(attempts)
    eventually(lambda: len(bench.started) == 2)
    running = set(bench.started)
    runner.recall([attempt.number for attempt in attempts])
    waiting = {attempt.number for attempt in attempts} - running
    eventually(lambda: set(bench.recalled) == waiting)
    bench.gate.open()
    for attempt in attempts:
        if attempt.number in running:
            assert bench.outcome(attempt).ending is Ending.RETURNED
    assert set(bench.started) == running
    assert len(bench.recalled) == 2


@pytest.mark.parametrize("task", ["double", "double_async"])
@pytest.mark.parametrize("ended", ["over", "of another incarnation"])
def test_what_the_lease_does_not_allow_is_given_back_and_what_runs_runs_on(
    runner: Runner, bench: Bench, task: str, ended: str
) -> None:
    running, waiting = bench.attempts(2, "wait", bench.gate.path), bench.attempts(3, task, 1)
    runner.start(running)
    eventually(lambda: len(bench.started) == 2)
    runner.start(waiting)
    runner.renew(lease(0.0) if ended == "over" else lease(life="the next"))
    late = bench.attempts(2, task, 1)
    runner.start(late)
    bench.gate.open()
    assert {outcome.ending for outcome in bench.all_of(running)} == {Ending.RETURNED}
    eventually(lambda: len(bench.recalled) == 5 or len(bench.started) > 2)
    assert set(bench.recalled) == {attempt.number for attempt in [*waiting, *late]}
    assert set(bench.started) == {attempt.number for attempt in running}
    bench.life = "the next"
    runner.renew(lease(life="the next"))
    assert bench.run(runner, bench.attempt(task, 4)).result == b"8"


def test_before_the_first_beat_nothing_starts(runner: Runner, bench: Bench) -> None:
    bench.life = ""
    runner.renew(Lease())
    early = bench.attempts(2, "double", 1)
    runner.start(early)
    eventually(lambda: len(bench.recalled) == 2)
    assert not bench.started


def test_closing_waits_for_what_runs_and_says_when_it_does_not_end(runner: Runner, bench: Bench) -> None:
    attempt = bench.attempt("wait", bench.gate.path)
    runner.start([attempt])
    eventually(lambda: any(isinstance(event, Started) for event in bench.told))
    assert not runner.close(0.01)
    bench.gate.open()
    assert runner.close(30)
    assert bench.outcome(attempt).ending is Ending.RETURNED


def test_every_attempt_of_many_is_answered_once(runner: Runner, bench: Bench) -> None:
    attempts = [bench.attempt("double_async" if n % 3 else "double", n) for n in range(3_000)]
    for at in range(0, len(attempts), 100):
        runner.start(attempts[at : at + 100])
    outcomes = bench.all_of(attempts)
    assert [outcome.result for outcome in outcomes] == [b"%d" % (2 * n) for n in range(3_000)]
    assert len([event for event in bench.told if isinstance(event, Outcome)]) == 3_000
