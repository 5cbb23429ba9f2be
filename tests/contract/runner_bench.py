"""A runner on a bench: attempts go in, what it tells is kept."""

import fcntl
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from msgspec.structs import replace
from runner_app import app

from waiting import eventually
from yadtq.attempt import Attempt, Lease, Outcome, Place, Recalled, Started
from yadtq.runners import InlineRunner, Runner, Sink
from yadtq.runners.pool import PoolRunner
from yadtq.service import SystemClock
from yadtq.task import FREE

LIMIT_BYTES = 1_000
LIFE = "life"  # the incarnation that claims everything where a test does not say otherwise
HOUR_S = 3_600.0
TESTS = Path(__file__).parents[1]


R = TypeVar("R", bound=Runner)


def lease(seconds: float = HOUR_S, life: str = LIFE) -> Lease:
    return Lease(life, SystemClock().mono_s() + seconds)


def leased(runner: R) -> R:
    """As after a good beat."""
    runner.renew(lease())
    return runner


class Gate:
    """Holds `wait` tasks until it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._file = path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def open(self) -> None:
        self._file.close()


class Bench:
    """Keeps what a runner tells, by attempt."""

    target = "runner_app:app"  # what its children import
    life = LIFE

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.told: list[Started | Outcome | Recalled] = []
        self.outcomes: dict[int, Outcome] = {}
        self.recalled: list[int] = []
        self.started: list[int] = []
        self.events: list[tuple[str, str]] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def sink(self, events: Sequence[Started | Outcome | Recalled]) -> None:
        with self._lock:
            for event in events:
                self._hear(event)

    def _hear(self, event: Started | Outcome | Recalled) -> None:
        self.told.append(event)
        match event:
            case Outcome(number):
                assert number not in self.outcomes, f"two outcomes of {number}"
                self.outcomes[number] = event
            case Recalled(number):
                self.recalled.append(number)
            case Started(number):
                self.started.append(number)

    def note(self, kind: str, text: str) -> None:
        self.events.append((kind, text))

    def said(self, kind: str) -> list[str]:
        return [text for kind_of, text in self.events if kind_of == kind]

    def has_said(self, kind: str, times: int) -> bool:
        return len(self.said(kind)) == times

    def attempt(self, task: str, *args: object) -> Attempt:
        return self.raw(task, json.dumps(args).encode())

    def raw(self, task: str, args: bytes) -> Attempt:
        number = next(self._numbers)
        limits = known.limits if (known := app.registry.get(task)) else FREE
        limit_s = limits.time_limit_s or 0.0
        place: Place = "solo" if limits.solo else "shared"
        return Attempt(number, f"t{number}", task, args, b"{}", 1, "1.1", place, limit_s, self.life)

    def alone(self, task: str, *args: object) -> Attempt:
        """Alone, whatever the task's definition says."""
        return replace(self.attempt(task, *args), place="solo")

    def suspect(self, task: str, *args: object) -> Attempt:
        """As after a death."""
        return replace(self.attempt(task, *args), place="suspect")

    def attempts(self, count: int, task: str, *args: object) -> list[Attempt]:
        return [self.attempt(task, *args) for _ in range(count)]

    def outcome(self, attempt: Attempt, timeout_s: float = 30) -> Outcome:
        eventually(lambda: attempt.number in self.outcomes, timeout_s)
        return self.outcomes[attempt.number]

    def run(self, runner: Runner, attempt: Attempt) -> Outcome:
        runner.start([attempt])
        return self.outcome(attempt)

    def all_of(self, attempts: list[Attempt], timeout_s: float = 60) -> list[Outcome]:
        eventually(lambda: all(attempt.number in self.outcomes for attempt in attempts), timeout_s)
        return [self.outcomes[attempt.number] for attempt in attempts]

    @contextmanager
    def pool(self, runners: int, slots: int, limit_bytes: int = LIMIT_BYTES, **options: Any) -> Iterator[PoolRunner]:
        """A pool with all of its children ready."""
        pool = leased(PoolRunner(self.target, runners, slots, self.sink, limit_bytes, on_event=self.note, **options))
        try:
            eventually(lambda: len(pool.pids) == runners, 60)
            yield pool
        finally:
            pool.kill()


def inline(sink: Sink) -> Runner:
    return leased(InlineRunner(app.registry, 2, sink, LIMIT_BYTES))


def pool(sink: Sink) -> Runner:
    return leased(PoolRunner("runner_app:app", 1, 2, sink, LIMIT_BYTES))


KINDS: list[Callable[[Sink], Runner]] = [inline, pool]


def alive(pid: int) -> bool:
    """Whether a process runs. One that is dead and not buried does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench whose children find the tasks of these tests."""
    monkeypatch.setenv("PYTHONPATH", f"{TESTS.parent / 'src'}:{TESTS}:{TESTS / 'contract'}")
    gate = Gate(tmp_path / "gate")
    yield Bench(gate)
    gate.open()
