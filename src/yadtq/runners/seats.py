"""The page on which a runner notes what it has started, in memory that outlives it.

Each attempt in flight has a seat: two words of 64 bits that the worker and one runner share. The worker takes a seat
and names it with the job; it gives the seat to another attempt only when the outcome has arrived. The runner writes the
start before it calls user code and the end after it, and clears nothing.

One word more is the lease (C6): which number a job must bear to be started, and until when. The worker writes it after
each good beat, and the runner looks at it before each start, so a runner whose worker stands still stops starting by
itself. It is one word, and not a number and a time, so that nobody can read half of a change: the new end beside the
old number would revive what was claimed under a lease that is over.

One invariant: when a runner is dead and what it sent has been read, an attempt whose seat says STARTED, and no other,
may have left the middle of its work behind.
"""

import mmap
import os
import sys
import time

WORD_BYTES = 8
ENDED = 1 << 63
UNTIL_BITS = 48  # ms: 8,900 years
UNTIL_MOST = (1 << UNTIL_BITS) - 1
LEASES = 1 << 16  # numbers come again after so many


def open_page(seats: int) -> int:
    """Return a descriptor of an empty page; it has no name, so nothing is left of it when its holders are gone."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("yadtq-seats")
    else:
        import tempfile

        descriptor, path = tempfile.mkstemp(prefix="yadtq-seats-")
        os.unlink(path)
    os.ftruncate(descriptor, _size_bytes(seats))
    return descriptor


class Seats:
    """The page, mapped into this process."""

    def __init__(self, descriptor: int, seats: int) -> None:
        self._seats = seats
        self._lease = 2 * seats
        self._map = mmap.mmap(descriptor, _size_bytes(seats))
        self._words = memoryview(self._map).cast("Q")

    # The runner's side. A number is kept one higher, so that 0 is nobody's.

    def allows(self, lease: int, now_s: float) -> bool:
        """Whether a job that bears this number may start now. On an empty page none may."""
        word = self._words[self._lease]
        return word >> UNTIL_BITS == lease and now_s * 1000 < word & UNTIL_MOST

    def start(self, seat: int, number: int) -> None:
        self._words[self._seats + seat] = time.monotonic_ns()
        self._words[seat] = number + 1

    def end(self, seat: int, number: int) -> None:
        self._words[seat] = (number + 1) | ENDED

    # The worker's side.

    def renew(self, lease: int, until_s: float) -> None:
        """Let jobs that bear this number, and no others, start until then, by a clock that counts suspended time."""
        self._words[self._lease] = lease << UNTIL_BITS | int(until_s * 1000)

    def clear(self, seat: int) -> None:
        """Before the seat is named to the runner. The last attempt in it has ended: nobody else writes here now."""
        self._words[seat] = 0

    def started(self, seat: int, number: int) -> bool:
        """User code was called and has not come back."""
        return self._words[seat] == number + 1

    def touched(self, seat: int, number: int) -> bool:
        """User code was called."""
        return self._words[seat] & ~ENDED == number + 1

    def started_ns(self, seat: int) -> int:
        """When user code was called, on the monotonic clock that all processes share."""
        return self._words[self._seats + seat]

    def close(self) -> None:
        self._words.release()
        self._map.close()


def _size_bytes(seats: int) -> int:
    return (2 * seats + 1) * WORD_BYTES
