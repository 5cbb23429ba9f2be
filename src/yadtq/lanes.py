"""Which records may start now: a lane for each partition, and how many of a lane may be on their way at once.

One invariant: a work that arrived is in one place (waiting, due again later, or out) until it is done or its lane is
removed, and nothing leaves the waiting ones while `width` works of the lane are on their way. With width 1 that is the
order of the partition: a retry that waits for its time holds the lane.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)  # what names a lane
W = TypeVar("W", bound=Hashable)  # a work


class Lane(Generic[W]):
    """The works of one partition."""

    def __init__(self) -> None:
        self.waiting: deque[W] = deque()
        self.out: set[W] = set()  # taken, or due again later
        self.later: list[tuple[float, int, W]] = []  # a heap: (not before, tie breaker, work), all of them in `out`


class Lanes(Generic[K, W]):
    """All lanes, served in turn."""

    def __init__(self, width: int) -> None:
        """Let at most `width` works of one lane be on their way."""
        self._width = width
        self._lanes: dict[K, Lane[W]] = {}
        self._ties = itertools.count()

    def add(self, key: K) -> None:
        self._lanes[key] = Lane()

    def remove(self, key: K) -> set[W]:
        """Forget a lane; return what of it was on its way."""
        lane = self._lanes.pop(key, None)
        return lane.out if lane is not None else set()

    def arrive(self, key: K, work: W) -> None:
        """A work comes in behind the others; nothing happens where its lane is gone."""
        lane = self._lanes.get(key)
        if lane is not None:
            lane.waiting.append(work)

    def take(self, room: int, now_mono: float) -> list[W]:
        """Take what may start now, at most `room`, one of each lane in turn."""
        taken: list[W] = []
        while len(taken) < room:
            round_ = list(itertools.islice(self._round(now_mono), room - len(taken)))
            if not round_:
                break
            taken += round_
        return taken

    def _round(self, now_mono: float) -> Iterator[W]:
        for key in list(self._lanes):
            lane = self._lanes[key]
            if lane.later and lane.later[0][0] <= now_mono:
                work = heapq.heappop(lane.later)[2]
            elif lane.waiting and len(lane.out) < self._width:
                work = lane.waiting.popleft()
                lane.out.add(work)
            else:
                continue
            self._lanes[key] = self._lanes.pop(key)  # behind the others, so that the next turn begins with them
            yield work

    def again(self, key: K, work: W, at_mono: float) -> None:
        """Take this work again, not before a time; forgotten where its lane is gone."""
        lane = self._lanes.get(key)
        if lane is not None:
            lane.out.add(work)
            heapq.heappush(lane.later, (at_mono, next(self._ties), work))

    def done(self, key: K, work: W) -> None:
        """This work is no longer on its way."""
        lane = self._lanes.get(key)
        if lane is not None:
            lane.out.discard(work)

    def rest(self) -> None:
        """Forget everything that is not out: somebody else will do it."""
        for lane in self._lanes.values():
            lane.waiting.clear()
            lane.out -= {work for _, _, work in lane.later}
            lane.later.clear()

    def next_mono(self) -> float | None:
        """When the next work may be taken, perhaps in the past; None where none waits."""
        times = [lane.later[0][0] for lane in self._lanes.values() if lane.later]
        if any(lane.waiting and len(lane.out) < self._width for lane in self._lanes.values()):
            times.append(0.0)
        return min(times, default=None)
