"""The thread that reads Kafka into the read model, and knows how far behind it is.

One invariant: it never ends by itself. Kafka that does not answer and a disk that is full are told to whoever looks
(`problem`), and tried again.

When the process dies, nothing is lost: the positions lie in the file beside the rows.
"""

import sqlite3
import time
from collections.abc import Callable

from yadtq.broker import Broker, Reader, TopicPartition
from yadtq.errors import BrokerUnavailable, SettingsError
from yadtq.layout import Layout
from yadtq.service import Service
from yadtq.web.readmodel import Foreign, ReadModel, Rebuilt, Role, Source

LOOK_S = 1.0  # how often new queues and partitions are looked for, and how far behind we are
AGAIN_S = 0.5
BATCH = 2_000
STALE_S = 3.0  # Kafka has not answered for so long: what is shown may be old
TRIM_S = 30.0
KEEP_S = 7 * 86_400
MOST_ROWS = 2_000_000


class Indexer(Service):
    """Reads every queue's topics into one read model."""

    def __init__(
        self,
        broker: Broker,
        layout: Layout,
        model: ReadModel,
        on_change: Callable[[], None],
        *,
        keep_s: float = KEEP_S,
        most_rows: int = MOST_ROWS,
    ) -> None:
        super().__init__("yadtq-indexer")
        self._broker = broker
        self._layout = layout
        self._model = model
        self._on_change = on_change
        self._keep_s = keep_s
        self._most_rows = most_rows
        self._positions: dict[TopicPartition, int] = {}
        self._sources: dict[str, Source] = {}
        self._look_at = 0.0
        self._trim_at = 0.0
        self._answered_at = time.monotonic()
        self._problem = ""
        self.behind: int | None = None  # records that Kafka has and the file has not; None: not known yet

    @property
    def problem(self) -> str:
        """Why what is shown may be old, or an empty string."""
        if self.failure is not None:
            return f"the lists have stopped: {self.failure}; start the web app again"
        if self._problem:
            return self._problem
        silent_s = time.monotonic() - self._answered_at
        return f"Kafka has not answered for {silent_s:.0f} s" if silent_s > STALE_S else ""

    @property
    def queues(self) -> list[str]:
        """The queues that were found."""
        return sorted({source.queue for source in self._sources.values()})

    def passed(self, topic: str, partition: int, offset: int) -> bool:
        """Say whether this record is in the file."""
        return self._positions.get(TopicPartition(topic, partition), 0) > offset

    def partitions(self, topic: str) -> list[int]:
        """The partitions of a topic that were read from."""
        return sorted(where.partition for where in list(self._positions) if where.topic == topic)

    def look_for(self, topic: str) -> None:
        """Look for new topics now, not in a while, if this one is not known."""
        if topic not in self._sources:
            self._look_at = 0.0

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._index()
            except Foreign:
                self._model.rebuild()
            except Rebuilt:
                continue  # not again: two processes would rebuild the file in turns for ever
            except BrokerUnavailable as error:
                self._pause(str(error))
            except sqlite3.Error as error:
                self._pause(f"the read model cannot be written: {error}")

    def _pause(self, problem: str) -> None:
        self._problem = problem
        self._on_change()
        self.stopping.wait(AGAIN_S)

    def _index(self) -> None:
        reader = self._broker.reader()
        self._positions = self._model.positions()
        self._look_at = 0.0
        watched: set[TopicPartition] = set()
        try:
            while not self.stopping.is_set():
                self.turns += 1
                if time.monotonic() >= self._look_at:
                    self._look(reader, watched)
                self._take(reader)
                self._trim()
        finally:
            reader.close()

    def _take(self, reader: Reader) -> None:
        records = reader.poll(0.1, BATCH)
        if not records:
            return
        found = self._model.apply(records, self._sources)
        if any(self._positions.get(where) != position for where, position in found.items()):
            self._positions |= found
            self._on_change()

    def _look(self, reader: Reader, watched: set[TopicPartition]) -> None:
        self._look_at = time.monotonic() + LOOK_S
        partitions = self._broker.partitions()
        self._sources = self._find(partitions)
        gone = {where.topic for where in self._positions} - self._sources.keys()
        if gone:
            raise Foreign(f"Kafka has no {', '.join(sorted(gone))} any more")
        ends = {where: end for topic in self._sources for where, end in self._broker.end_offsets(topic).items()}
        self._compare(ends)
        # One record is read twice, and dropped: by it the file knows whether this is the Kafka it was read from.
        fresh = {where: max(self._positions.get(where, 0) - 1, 0) for where in ends.keys() - watched}
        if fresh:
            reader.watch(fresh)
            watched |= fresh.keys()
        self._answered()

    def _compare(self, ends: dict[TopicPartition, tuple[int, int]]) -> None:
        behind = 0
        for where, (first, end) in ends.items():
            position = self._positions.get(where, 0)
            if position > end:
                raise Foreign(f"{where.topic} {where.partition} ends at {end} and was read up to {position}")
            behind += end - max(position, first)
        if behind != self.behind:
            self.behind = behind
            self._on_change()

    def _answered(self) -> None:
        self._answered_at = time.monotonic()
        if self._problem:
            self._problem = ""
            self._on_change()

    def _find(self, partitions: dict[str, int]) -> dict[str, Source]:
        found: dict[str, Source] = {}
        for queue in self._layout.queues(set(partitions)):
            try:
                topics = self._layout.queue(queue)
            except SettingsError:  # somebody else's topics that only look like a queue's
                continue
            for topic, role in zip(topics.all, (Role.TASKS, Role.OUTCOMES, Role.DEAD, Role.DELAYED), strict=True):
                if topic in partitions:
                    found[topic] = Source(queue, role, topics.tasks)
        return found

    def _trim(self) -> None:
        now = time.monotonic()
        if now < self._trim_at:
            return
        before_ms = time.time_ns() // 1_000_000 - int(self._keep_s * 1_000)
        if self._model.trim(before_ms, self._most_rows):
            self._on_change()
        else:
            self._trim_at = now + TRIM_S
