"""What waits for its claim: the works that share the runners, and those that run alone, each kind in lanes of its own.

One invariant: a work is in the lanes of its kind. What runs alone is claimed only as it can start, so it holds up
nobody that shares; where an order is kept it is kept among all, and nothing stands apart.
"""

from collections.abc import Iterable, Sequence

from yadtq.broker import Record
from yadtq.catalogue import Known
from yadtq.claim import Work
from yadtq.intake import Assignment
from yadtq.lanes import Lanes
from yadtq.runners import Runner
from yadtq.settings import Order

CLAIMS_MOST = 500  # in one round trip: about 5 ms in Redis, during which it serves nobody else


class LineUp:
    """The lanes of both kinds, and how much of each the runners can take.

    Args:
        order: What has to wait for what.
    """

    def __init__(self, known: Known, runner: Runner, order: Order) -> None:
        self._known = known
        self._runner = runner
        self._order = order
        self._apart = runner.isolates and order == "unordered"  # else all wait together
        self._shared: Lanes[Assignment, Work] = Lanes()
        self._solo: Lanes[Assignment, Work] = Lanes()
        self._lanes = self._shared, self._solo  # by whether a work is solo

    def add(self, assignment: Assignment) -> None:
        for lanes in self._lanes:
            lanes.add(assignment)

    def remove(self, assignment: Assignment) -> set[Work]:
        """Forget a partition; return what of it was on its way."""
        return self._shared.remove(assignment) | self._solo.remove(assignment)

    def rest(self) -> None:
        """Forget everything that is not on its way: somebody else will do it."""
        for lanes in self._lanes:
            lanes.rest()

    def arrive(self, work: Work) -> None:
        work.solo = self._apart and self._known.is_solo(work.envelope.task_type)
        self._lanes[work.solo].arrive(work.assignment, work, self._lane_of(work.record))

    def again(self, work: Work, at_mono: float) -> None:
        """Take this work again, not before a time."""
        self._lanes[work.solo].again(work.assignment, work, at_mono)

    def isolate(self, work: Work) -> None:
        """It has ended a process: where works stand apart it runs alone from now on."""
        if self._apart:
            self.done([work])
            work.solo = True

    def drop(self, work: Work) -> None:
        """Take a work that is due again later out of everything: somebody else does it."""
        self._lanes[work.solo].drop(work.assignment, work)

    def done(self, works: Iterable[Work]) -> None:
        """What comes behind these may start."""
        for work in works:
            self._lanes[work.solo].done(work.assignment, work)

    def later(self) -> list[Work]:
        """What is due again later."""
        return [work for lanes in self._lanes for work in lanes.later()]

    def take(self, now_mono: float, before: Sequence[Work]) -> list[Work]:
        """Take as much as can start at once. before: what will take room in the runners first."""
        solo = sum(work.solo for work in before)
        room = min(self._runner.room(), CLAIMS_MOST) - len(before) + solo
        return self._shared.take(room, now_mono) + self._solo.take(self._runner.solo_room() - solo, now_mono)

    def next_mono(self) -> float | None:
        """When the next work may be taken, perhaps in the past; None where none waits, or none can start."""
        times: list[float] = []
        for lanes, room in ((self._shared, self._runner.room), (self._solo, self._runner.solo_room)):
            head = lanes.next_mono()
            if head is not None and room() > 0:  # without room an outcome wakes the loop
                times.append(head)
        return min(times, default=None)

    def _lane_of(self, record: Record) -> bytes | None:
        """What this record must not overtake: all with its key, all of its partition, or nothing."""
        if self._order == "unordered":
            return None
        return b"" if self._order == "partition" else record.key
