"""Every runner: what is started ends in an outcome or is recalled, whatever the user's code does."""

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from waiting import eventually
from yadtq.app import App
from yadtq.attempt import Attempt, Ending, Outcome, Recalled, Started
from yadtq.broker.memory import MemoryBroker
from yadtq.ledger.memory import MemoryLedger
from yadtq.runners import InlineRunner, Runner

gate = threading.Event()


def make_app() -> App:
    app = App("r", broker=MemoryBroker(), ledger=MemoryLedger())

    @app.task
    def double(n: int) -> int:
        return 2 * n

    @app.task
    async def double_async(n: int) -> int:
        return 2 * n

    @app.task
    def wait() -> None:
        gate.wait(30)

    @app.task
    def leave() -> None:
        sys.exit(7)

    @app.task
    async def leave_async() -> None:
        sys.exit(7)

    @app.task
    def endless(n: int) -> int:
        return endless(n + 1)

    @app.task
    def thing() -> Any:
        return object()

    @app.task
    def big() -> str:
        return "x" * 2_000

    @app.task
    def rude() -> None:
        class RudeError(Exception):
            def __str__(self) -> str:
                raise ValueError("no message for you")

        raise RudeError

    @app.task
    def long_error() -> None:
        raise RuntimeError("y" * 100_000 + " the end")

    return app


class Bench:
    def __init__(self, make: Callable[[App, "Bench"], Runner]) -> None:
        self.told: list[Started | Outcome | Recalled] = []
        self.runner = make(make_app(), self)
        self._number = 0

    def attempt(self, task: str, args: bytes = b"[]") -> Attempt:
        self._number += 1
        return Attempt(self._number, f"t{self._number}", task, args, b"{}", 1, "1.1")

    def run(self, task: str, args: bytes = b"[]") -> Outcome:
        attempt = self.attempt(task, args)
        self.runner.start([attempt])
        return self.outcome(attempt.number)

    def outcome(self, number: int) -> Outcome:
        return eventually(
            lambda: next((o for o in self.told if isinstance(o, Outcome) and o.number == number), None), 30
        )


def inline(app: App, bench: Bench) -> Runner:
    return InlineRunner(app.registry, 2, bench.told.append, 1_000)


@pytest.fixture(params=[inline])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    gate.clear()
    made = Bench(request.param)
    yield made
    gate.set()
    assert made.runner.close(30)


@pytest.mark.parametrize("task", ["double", "double_async"])
def test_a_task_returns_its_result_as_json(bench: Bench, task: str) -> None:
    outcome = bench.run(task, b"[21]")
    assert (outcome.ending, outcome.result, outcome.error_log) == (Ending.RETURNED, b"42", None)
    assert outcome.started_at_ms <= outcome.finished_at_ms
    assert isinstance(bench.told[0], Started)


@pytest.mark.parametrize(
    ("task", "args", "ending", "said"),
    [
        ("double", b'["x"]', Ending.BAD_ARGUMENTS, "n: Expected `int`, got `str`"),
        ("double", b"[]", Ending.BAD_ARGUMENTS, "missing a required argument"),
        ("double_async", b"[1, 2]", Ending.BAD_ARGUMENTS, "too many positional arguments"),
        ("double", b"[\xff]", Ending.BAD_ARGUMENTS, "do not fit"),
        ("thing", b"[]", Ending.BAD_RESULT, "a object cannot be written as JSON"),
        ("big", b"[]", Ending.BAD_RESULT, "2,002 bytes and the limit is 1,000"),
        ("leave", b"[]", Ending.RAISED, "SystemExit: 7"),
        ("leave_async", b"[]", Ending.RAISED, "SystemExit: 7"),
        ("endless", b"[0]", Ending.RAISED, "RecursionError"),
        ("rude", b"[]", Ending.RAISED, "RudeError"),
        ("long_error", b"[]", Ending.RAISED, "the end"),
    ],
)
def test_whatever_the_code_does_an_outcome_comes_back(
    bench: Bench, task: str, args: bytes, ending: Ending, said: str
) -> None:
    outcome = bench.run(task, args)
    assert outcome.ending is ending
    assert said in (outcome.error_log or "")
    assert len(outcome.error_log or "") < 33_000
    assert bench.run("double", b"[1]").result == b"2", "the slot did not survive"


def test_room_counts_what_waits_and_what_runs(bench: Bench) -> None:
    assert bench.runner.room() == 2
    attempts = [bench.attempt("wait") for _ in range(3)]
    bench.runner.start(attempts)
    assert bench.runner.room() == 0
    gate.set()
    for attempt in attempts:
        bench.outcome(attempt.number)
    assert eventually(lambda: bench.runner.room() == 2)


def test_a_recall_gives_back_what_has_not_started_and_leaves_what_runs(bench: Bench) -> None:
    attempts = [bench.attempt("wait") for _ in range(4)]
    bench.runner.start(attempts)
    started = eventually(lambda: len(s := [e.number for e in bench.told if isinstance(e, Started)]) == 2 and s)
    bench.runner.recall([attempt.number for attempt in attempts])
    recalled = {event.number for event in bench.told if isinstance(event, Recalled)}
    assert recalled == {attempt.number for attempt in attempts} - set(started)
    gate.set()
    for number in started:
        assert bench.outcome(number).ending is Ending.RETURNED
    assert {event.number for event in bench.told if isinstance(event, Started)} == set(started)


def test_closing_waits_for_what_runs_and_says_when_it_does_not_end(bench: Bench) -> None:
    attempt = bench.attempt("wait")
    bench.runner.start([attempt])
    eventually(lambda: any(isinstance(event, Started) for event in bench.told))
    assert not bench.runner.close(0.01)
    gate.set()
    assert bench.runner.close(30)
    assert bench.outcome(attempt.number).ending is Ending.RETURNED
