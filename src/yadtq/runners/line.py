"""What waits for a child with room, in its order, and the lease under which it may start (C6).

One invariant: `lapsed` is asked before anything is taken, so what is given to a child bears the number of the present
lease, and what was claimed under another one, or waits when it is over, goes back to the engine and to no runner.
"""

from collections import deque
from collections.abc import Iterable, Set

from yadtq.attempt import Attempt, Lease
from yadtq.runners.seats import LEASES, Seats
from yadtq.service import Clock


class Line:
    """Not thread-safe: its crew's lock is held at every call."""

    def __init__(self, clock: Clock) -> None:
        self.number = 0  # of the present lease, as jobs and pages bear it
        self._lease = Lease()
        self._clock = clock
        self._waiting: deque[Attempt] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def renew(self, lease: Lease) -> None:
        """Another incarnation is another number, which no job bears that was given before."""
        if lease.incarnation != self._lease.incarnation:
            self.number = self.number % (LEASES - 1) + 1
        self._lease = lease

    def write_to(self, page: Seats) -> None:
        """Let a child know."""
        page.renew(self.number, self._lease.until_s)

    def join(self, attempts: Iterable[Attempt]) -> None:
        self._waiting.extend(attempts)

    def return_to(self, attempts: Iterable[Attempt]) -> None:
        """Those that have waited before, the first of them first: to the front."""
        self._waiting.extendleft(reversed(list(attempts)))

    def take(self) -> Attempt:
        return self._waiting.popleft()

    def lapsed(self) -> list[int]:
        """Take out what may not start any more."""
        lease = self._lease
        allowed = lease.incarnation if lease.allows(lease.incarnation, self._clock.mono_s()) else None
        return self._leave([attempt.number for attempt in self._waiting if attempt.incarnation != allowed])

    def recall(self, wanted: Set[int]) -> list[int]:
        """Take these out."""
        return self._leave([attempt.number for attempt in self._waiting if attempt.number in wanted])

    def clear(self) -> list[int]:
        """Take all out."""
        return self._leave([attempt.number for attempt in self._waiting])

    def _leave(self, numbers: list[int]) -> list[int]:
        if numbers:
            going = frozenset(numbers)
            self._waiting = deque(attempt for attempt in self._waiting if attempt.number not in going)
        return numbers
