"""Waiting in tests: on a condition, or by turning the clock. Nothing here sleeps for a guessed time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout_s: float = 10.0, every_s: float = 0.002) -> T:
    """Ask until the answer is true, and return it; an AssertionError with the last answer when it never was."""
    pause, deadline_mono = threading.Event(), time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline_mono, f"not true after {timeout_s:g} s; the last answer was {answer!r}"
        pause.wait(every_s)
    return answer


class ManualClock:
    """A clock that stands until it is turned."""

    def __init__(self, now_ms: int = 1_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def mono_s(self) -> float:
        return self._now_ms / 1000

    def turn(self, by_ms: int) -> None:
        self._now_ms += by_ms
