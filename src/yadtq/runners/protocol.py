"""What a worker needs of whatever runs user code: the runner port.

One invariant: `start` and `recall` never wait, and every attempt that was started is answered exactly once, by its
outcome or by `Recalled`. What runs is never stopped halfway by a recall.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from yadtq.attempt import Attempt, Outcome, Recalled, Started

Sink = Callable[[Sequence[Started | Outcome | Recalled]], None]  # what came at the same time


class Runner(Protocol):
    """Runs attempts and tells a sink, on threads of its own, what becomes of them."""

    isolates: bool  # it runs `solo` attempts each in a process of its own, and ends those that pass their time limit

    def room(self) -> int:
        """How many more attempts it would start without delay."""

    def solo_room(self) -> int:
        """How many more that run alone; they take no room from the others. Always 0 where it does not isolate."""

    def start(self, attempts: Sequence[Attempt]) -> None:
        """Take attempts; those that find no free slot wait inside."""

    def recall(self, numbers: Sequence[int]) -> None:
        """Give back what has not started: `Recalled` for each such attempt, nothing for the others."""

    def close(self, timeout_s: float) -> bool:
        """Take nothing more and wait for what runs; False: something still runs."""

    def kill(self) -> None:
        """End what still runs, as far as it can be ended: this process is about to leave."""
