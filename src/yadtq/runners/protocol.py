"""What a worker needs of whatever runs user code: the runner port.

One invariant: `start`, `recall` and `renew` never wait, and every attempt that was started is answered exactly once, by
its outcome or by `Recalled`. What runs is never stopped halfway by a recall, nor by the end of a lease.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from yadtq.attempt import Attempt, Lease, Outcome, Place, Recalled, Started

Sink = Callable[[Sequence[Started | Outcome | Recalled]], None]  # what came at the same time
OnEvent = Callable[[str, str], None]  # what became of a child, as a kind and a sentence


class Runner(Protocol):
    """Runs attempts and tells a sink, on threads of its own, what becomes of them."""

    isolates: bool  # what is not `shared` runs in a process of its own, which is ended where it passes its time limit

    def room(self, place: Place = "shared") -> int:
        """How many more attempts it would start there without delay; no place takes room from another one.

        Only the shared one has any where it does not isolate.
        """

    def start(self, attempts: Sequence[Attempt]) -> None:
        """Take attempts; those that find no free slot wait inside."""

    def recall(self, numbers: Sequence[int]) -> None:
        """Give back what has not started: `Recalled` for each such attempt, nothing for the others."""

    def renew(self, lease: Lease) -> None:
        """From now on user code starts only as this lease allows, looked at before each start (C6); what it does not
        allow is answered `Recalled`. Before the first call nothing starts. On any thread."""

    def close(self, timeout_s: float) -> bool:
        """Take nothing more and wait for what runs; False: something still runs."""

    def kill(self) -> None:
        """End what still runs, as far as it can be ended: this process is about to leave."""
