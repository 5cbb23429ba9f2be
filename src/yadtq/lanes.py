"""Which records may start now: the works of every partition in their turn, and of what shares a lane one at a time.

One invariant: a work that arrived is in one place (waiting, behind its lane, due again later, or out) until it is done
or its partition is removed, and of the works with one lane name at most one is out. What has no lane name waits for
nobody. A retry that waits for its time is out, so it holds its lane.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)  # what names a partition
W = TypeVar("W", bound=Hashable)  # a work

Lane = bytes | None


class Partition(Generic[W]):
    """The works of one partition."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[W, Lane]] = deque()  # may start
        self.behind: dict[bytes, deque[W]] = {}  # lanes of which a work waits or is out, and what comes after it
        self.out: dict[W, Lane] = {}  # taken, or due again later
        self.later: list[tuple[float, int, W]] = []  # a heap: (not before, tie breaker, work), all of them in `out`

    def take(self, now_mono: float) -> W | None:
        if self.later and self.later[0][0] <= now_mono:
            return heapq.heappop(self.later)[2]
        if self.waiting:
            work, lane = self.waiting.popleft()
            self.out[work] = lane
            return work
        return None

    def done(self, work: W) -> None:
        lane = self.out.pop(work, None)
        if lane is None:
            return
        if self.behind[lane]:
            self.waiting.append((self.behind[lane].popleft(), lane))
        else:
            del self.behind[lane]


class Lanes(Generic[K, W]):
    """All partitions, served in turn."""

    def __init__(self) -> None:
        self._partitions: dict[K, Partition[W]] = {}
        self._turn: deque[K] = deque()
        self._ties = itertools.count()

    def add(self, key: K) -> None:
        self._partitions[key] = Partition()
        self._turn.append(key)

    def remove(self, key: K) -> set[W]:
        """Forget a partition; return what of it was on its way."""
        partition = self._partitions.pop(key, None)
        if partition is None:
            return set()
        self._turn.remove(key)
        return set(partition.out)

    def arrive(self, key: K, work: W, lane: Lane = None) -> None:
        """A work comes in behind the others; nothing happens where its partition is gone."""
        partition = self._partitions.get(key)
        if partition is None:
            return
        if lane is None:
            partition.waiting.append((work, None))
        elif lane in partition.behind:
            partition.behind[lane].append(work)
        else:
            partition.behind[lane] = deque()
            partition.waiting.append((work, lane))

    def take(self, room: int, now_mono: float) -> list[W]:
        """Take what may start now, at most `room`, one of each partition in turn."""
        taken: list[W] = []
        empty = 0
        while len(taken) < room and empty < len(self._turn):
            key = self._turn[0]
            self._turn.rotate(-1)  # the next turn begins with the next one
            work = self._partitions[key].take(now_mono)
            if work is None:
                empty += 1
            else:
                empty = 0
                taken.append(work)
        return taken

    def again(self, key: K, work: W, at_mono: float) -> None:
        """Take this work again, not before a time; forgotten where its partition is gone."""
        partition = self._partitions.get(key)
        if partition is not None:
            partition.out.setdefault(work, None)  # it may have left its lane already
            heapq.heappush(partition.later, (at_mono, next(self._ties), work))

    def done(self, key: K, work: W) -> None:
        """This work is no longer on its way."""
        partition = self._partitions.get(key)
        if partition is not None:
            partition.done(work)

    def drop(self, key: K, work: W) -> None:
        """Take a work that is due again later out of everything: somebody else does it."""
        partition = self._partitions.get(key)
        if partition is not None:
            partition.later = [entry for entry in partition.later if entry[2] is not work]
            heapq.heapify(partition.later)
            partition.done(work)

    def later(self) -> Iterable[W]:
        """What is due again later."""
        return [work for partition in self._partitions.values() for _, _, work in partition.later]

    def rest(self) -> None:
        """Forget everything that is not out: somebody else will do it."""
        for partition in self._partitions.values():
            for _, _, work in partition.later:
                del partition.out[work]
            partition.later.clear()
            partition.waiting.clear()
            partition.behind = {lane: deque() for lane in partition.out.values() if lane is not None}

    def next_mono(self) -> float | None:
        """When the next work may be taken, perhaps in the past; None where none waits."""
        if any(partition.waiting for partition in self._partitions.values()):
            return 0.0
        return min((partition.later[0][0] for partition in self._partitions.values() if partition.later), default=None)
