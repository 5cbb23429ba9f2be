"""The due index in memory: it answers like the scripts in Redis, and lies beside the memory ledger.

One invariant: it says nothing that Redis would not say; the contract suite runs on both.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from yadtq.ledger.due import LOOK_BYTES, Due, Look, Place, Waiting
from yadtq.ledger.protocol import TaskRecord

Find = Callable[[str, int], TaskRecord | None]
Schedule = Callable[[Waiting, int], None]
Fired = Callable[[str, int, int], None]


@dataclass(slots=True)
class Index:
    upto: int = 0
    entries: dict[str, Waiting] = field(default_factory=dict)

    def in_order(self) -> list[Waiting]:
        return sorted(self.entries.values(), key=lambda entry: (entry.task.not_before_ms, entry.key))

    def wait_ms(self, place: int, now: int) -> int | None:
        rest = self.in_order()[place : place + 1]
        return max(rest[0].task.not_before_ms - now, 0) if rest else None


class MemoryDueIndex:
    """The index of one memory ledger.

    Args:
        move: One atomic move of the ledger; gives the time.
        is_open: Whether the ledger has an epoch for a topic.
        find: The record of a task, now.
        schedule: Writes the SCHEDULED record of a task that has none.
        fired: Makes the SCHEDULED record of this generation QUEUED.
    """

    def __init__(
        self,
        move: Callable[[], AbstractContextManager[int]],
        is_open: Callable[[str], bool],
        find: Find,
        schedule: Schedule,
        fired: Fired,
    ) -> None:
        self._move = move
        self._is_open = is_open
        self._find = find
        self._schedule = schedule
        self._fired = fired
        self.indexes: dict[tuple[str, int], Index] = {}

    def wipe(self) -> None:
        """Forget everything."""
        self.indexes.clear()

    def places(self, topic: str, partitions: Sequence[int]) -> list[Place]:
        with self._move():
            found = [self.indexes.get((topic, partition), Index()) for partition in partitions]
            return [Place(index.upto, len(index.entries)) for index in found]

    def put(
        self, topic: str, partition: int, expected: int, upto: int, waiting: Sequence[Waiting], over: Sequence[str]
    ) -> Look:
        with self._move() as now:
            if not self._is_open(topic):
                return Look(closed=True)
            index = self.indexes.get((topic, partition), Index())
            if index.upto != expected:
                return Look(index.upto)
            self.indexes[topic, partition] = index
            for key in over:
                index.entries.pop(key, None)
                generation, _, task_id = key.partition(":")
                if generation.isdecimal():
                    self._fired(task_id, int(generation), now)
            for entry in waiting:
                index.entries[entry.key] = entry
                self._schedule(entry, now)
            index.upto = upto
            return Look(upto, index.wait_ms(0, now))

    def look(self, topic: str, expected: Mapping[int, int], most: int) -> dict[int, Look]:
        with self._move() as now:
            return {partition: self._look(topic, partition, upto, most, now) for partition, upto in expected.items()}

    def _look(self, topic: str, partition: int, expected: int, most: int, now: int) -> Look:
        if not self._is_open(topic):
            return Look(closed=True)
        index = self.indexes.get((topic, partition), Index())
        if index.upto != expected:
            return Look(index.upto)
        due: list[Due] = []
        size = 0
        for entry in index.in_order()[:most]:
            found = self._due(entry, now)
            size += len(found.value)
            if entry.task.not_before_ms > now or (due and size > LOOK_BYTES):
                break
            due.append(found)
        return Look(index.upto, index.wait_ms(len(due), now), due)

    def _due(self, entry: Waiting, now: int) -> Due:
        record = self._find(entry.task.task_id, now)
        if record is not None and (record.sealed or record.generation > entry.generation):  # T1
            return Due(entry.key, entry.offset, over=True)
        return Due(entry.key, entry.offset, False, entry.value, dict(entry.headers))

    def remove(self, topic: str, partition: int, entries: Sequence[tuple[str, int]]) -> None:
        with self._move():
            index = self.indexes.get((topic, partition), Index())
            for key, offset in entries:
                if key in index.entries and index.entries[key].offset == offset:
                    del index.entries[key]
