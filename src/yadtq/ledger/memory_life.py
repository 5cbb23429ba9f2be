"""The life of each queue in the memory ledger: its epoch, who reads it in, and how many calls it has answered.

One invariant: a `Life` answers like `register.lua`, `recovery.lua` and the beginning of `exchange.lua`.
"""

from collections import Counter
from dataclasses import dataclass, field

from yadtq.layout import BARRIER_MS, LOCK_MS
from yadtq.ledger.protocol import Errand

Seen = tuple[int, int]  # epoch, and how many calls it had answered


@dataclass(slots=True)
class Life:
    """What stands in Redis under the keys of one queue."""

    epoch: int = 0  # 0: there is none
    writes: Counter[str] = field(default_factory=Counter)  # by worker
    read_until_ms: int = 0
    since_ms: int | None = None  # of the barrier
    allotted: int = 0
    barrier_until_ms: int = 0
    token: str = ""  # of the lock
    batches: int = 0
    lock_until_ms: int = 0
    least_ms: int | None = None  # when the first of what was restored goes

    def call(self, worker: str, seen: Seen) -> Seen | None:
        """Count a call; None: it has to wait. A life that knows of fewer than the worker has lost writes (R2)."""
        if not self.epoch:
            return None
        self.writes[worker] += 1
        if seen[0] > self.epoch or (seen[0] == self.epoch and self.writes[worker] <= seen[1]):
            self.allotted = max(self.epoch, seen[0])
            self.epoch = 0
            return None
        return self.epoch, self.writes[worker]

    def wait(self, now: int) -> int:
        """Return for how long this ledger has been waiting."""
        if self.since_ms is not None and now >= self.barrier_until_ms:
            self.since_ms, self.allotted = None, 0
        self.since_ms = now if self.since_ms is None else self.since_ms
        self.barrier_until_ms = now + BARRIER_MS
        return now - self.since_ms

    def take(self, token: str, least_ms: int, now: int) -> Errand:
        if self.epoch and now < self.read_until_ms:
            return Errand.NOTHING
        if not self.epoch and self.wait(now) < least_ms:
            return Errand.EARLY
        if not self.is_held(token, now):
            if self.token and now < self.lock_until_ms:
                return Errand.TAKEN
            self.token, self.batches, self.least_ms = token, 0, None
        self.lock_until_ms = now + LOCK_MS
        return Errand.READ if self.epoch else Errand.REBUILD

    def is_held(self, token: str, now: int) -> bool:
        return self.token == token and now < self.lock_until_ms

    def allot(self, token: str, floor: int, now: int) -> int | None:
        if not self.is_held(token, now) or self.epoch:
            return None
        self.allotted = max(now, floor + 1, self.allotted + 1)
        return self.allotted

    def batch(self, token: str, now: int) -> bool:
        """Count a batch that is about to be restored."""
        if not self.is_held(token, now):
            return False
        self.batches += 1
        self.lock_until_ms = now + LOCK_MS
        return True

    def open(self, token: str, epoch: int, batches: int, now: int, reading_ms: int) -> bool:
        if not self.is_held(token, now) or self.batches != batches:
            return False
        if epoch:
            if self.epoch or self.allotted != epoch:
                return False
            self.epoch, self.since_ms, self.allotted = epoch, None, 0
            self.writes.clear()
        elif not self.epoch:
            return False
        self.read_until_ms = min(now + reading_ms, self.least_ms or now + reading_ms)  # C8
        self.token = ""
        return True

    def drop(self, token: str) -> None:
        if self.token == token:
            self.token = ""
