"""What waits for its claim, in lanes of its own for each place where works run: shared, solo, suspect.

One invariant: a work is in the lanes of its place. What runs alone is claimed only as it can start, so it holds up
nobody that shares; where an order is kept it is kept among all, and nothing stands apart.

A task that ends a process which it had for itself ends every process. Others of its type most likely do too, and would
end the shared runners one after the other: they run alone from then on, until one of the type comes to its end.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import get_args

from yadtq.attempt import Place
from yadtq.broker import Record
from yadtq.catalogue import Known
from yadtq.claim import Work
from yadtq.intake import Assignment
from yadtq.lanes import Lanes
from yadtq.runners import Runner
from yadtq.settings import Order

CLAIMS_MOST = 500  # in one round trip: about 5 ms in Redis, during which it serves nobody else


class LineUp:
    """The lanes of all places, and how much each of these can take.

    Args:
        order: What has to wait for what.
    """

    def __init__(self, known: Known, runner: Runner, order: Order) -> None:
        self._known = known
        self._runner = runner
        self._order = order
        self._apart = runner.isolates and order == "unordered"  # else all wait together
        self._lanes: dict[Place, Lanes[Assignment, Work]] = {place: Lanes() for place in get_args(Place)}
        self._deadly: set[str] = set()  # task types of which one ended a process of its own, and none has ended since

    def add(self, assignment: Assignment) -> None:
        for lanes in self._lanes.values():
            lanes.add(assignment)

    def remove(self, assignment: Assignment) -> set[Work]:
        """Forget a partition; return what of it was on its way."""
        return {work for lanes in self._lanes.values() for work in lanes.remove(assignment)}

    def rest(self) -> None:
        """Forget everything that is not on its way: somebody else will do it."""
        for lanes in self._lanes.values():
            lanes.rest()

    def arrive(self, work: Work) -> None:
        if self._apart and self._known.is_solo(work.envelope.task_type):
            work.place = "solo"
        self._lanes[work.place].arrive(work.assignment, work, self._lane_of(work.record))

    def again(self, work: Work, at_mono: float) -> None:
        """Take this work again, not before a time."""
        if self._shares_wrongly(work):
            self._set_apart(work)
        self._lanes[work.place].again(work.assignment, work, at_mono)

    def isolate(self, work: Work) -> bool:
        """It has ended a process: where works stand apart it runs alone from now on. Say if now all of its type do."""
        if not self._apart:
            return False
        task_type, known = work.envelope.task_type, len(self._deadly)
        if work.place == "suspect":
            self._deadly.add(task_type)
        self._set_apart(work)
        return len(self._deadly) > known

    def _shares_wrongly(self, work: Work) -> bool:
        return work.place == "shared" and work.envelope.task_type in self._deadly

    def _set_apart(self, work: Work) -> None:
        self._lanes[work.place].done(work.assignment, work)
        work.place = "solo" if self._known.is_solo(work.envelope.task_type) else "suspect"

    def drop(self, work: Work) -> None:
        """Take a work that is due again later out of everything: somebody else does it."""
        self._lanes[work.place].drop(work.assignment, work)

    def done(self, works: Iterable[Work]) -> None:
        """What comes behind these may start."""
        for work in works:
            self._lanes[work.place].done(work.assignment, work)
            if self._deadly and work.verdict is not None and not work.verdict.died:
                self._deadly.discard(work.envelope.task_type)

    def later(self) -> list[Work]:
        """What is due again later."""
        return [work for lanes in self._lanes.values() for work in lanes.later()]

    def take(self, now_mono: float, before: Sequence[Work]) -> list[Work]:
        """Take as much as can start at once. before: what will take room in the runners first."""
        given = Counter([work.place for work in before])
        taken: list[Work] = []
        for place, lanes in self._lanes.items():
            found = lanes.take(min(self._runner.room(place), CLAIMS_MOST) - given[place], now_mono)
            taken += self._fit(found) if self._deadly else found
        return taken

    def _fit(self, works: Sequence[Work]) -> list[Work]:
        """Those that may run where they were to; the others wait among what runs alone."""
        fit = []
        for work in works:
            if self._shares_wrongly(work):
                self._set_apart(work)
                self._lanes[work.place].arrive(work.assignment, work)
            else:
                fit.append(work)
        return fit

    def next_mono(self) -> float | None:
        """When the next work may be taken, perhaps in the past; None where none waits, or none can start."""
        times: list[float] = []
        for place, lanes in self._lanes.items():
            head = lanes.next_mono()
            if head is not None and self._runner.room(place) > 0:  # without room an outcome wakes the loop
                times.append(head)
        return min(times, default=None)

    def _lane_of(self, record: Record) -> bytes | None:
        """What this record must not overtake: all with its key, all of its partition, or nothing."""
        if self._order == "unordered":
            return None
        return b"" if self._order == "partition" else record.key
