"""A run: from the first producer on a topic to the moment when everything before `end` is done.

One invariant: a run is closed only while every producer that is alive has given `end`, the group has committed all
that the topic holds, and nothing waits for a time; who sees that first closes it, and everybody who took part sees it
closed. A producer that is killed stops beating and holds up nothing; an `end` counts although its producer died after
it.
"""

from collections.abc import Callable, Mapping

from yadtq.broker import Broker, TopicPartition
from yadtq.errors import BrokerUnavailable, LedgerUnavailable
from yadtq.layout import QueueTopics
from yadtq.ledger import Ledger, RunRecord
from yadtq.service import Service
from yadtq.telemetry import Telemetry

LOOK_S = 0.5
NO_RUN = RunRecord(0, ended=True, ending=False)


def drained(ledger: Ledger, broker: Broker, topic: str, group: str) -> bool:
    """Whether everything in the topic is finished and committed, and nothing waits for a time.

    A retry may go from one topic to the other while this looks, and fire back: then the second has another end.
    Raises BrokerUnavailable, LedgerUnavailable.
    """
    delayed = QueueTopics.of(topic).delayed
    before = broker.end_offsets(delayed)
    return (
        not _waiting(ledger, topic, before)
        and not unfinished(broker, topic, group)
        and broker.end_offsets(delayed) == before
    )


def waiting(ledger: Ledger, broker: Broker, topic: str) -> int:
    """How many tasks of the queue wait for a time. Raises BrokerUnavailable, LedgerUnavailable."""
    return _waiting(ledger, topic, broker.end_offsets(QueueTopics.of(topic).delayed))


def _waiting(ledger: Ledger, topic: str, ends: Mapping[TopicPartition, tuple[int, int]]) -> int:
    """By the index, with the records that it has not come to yet."""
    used = {where.partition: (first, end) for where, (first, end) in ends.items() if end > first}
    if not used:
        return 0
    places = ledger.due.places(topic, list(used))
    return sum(
        place.waits + max(end - max(first, place.upto), 0)
        for place, (first, end) in zip(places, used.values(), strict=True)
    )


def unfinished(broker: Broker, topic: str, group: str) -> int:
    """How many records of the topic are not covered by the group's commits. Raises BrokerUnavailable."""
    committed = broker.committed(topic, group)
    ends = broker.end_offsets(topic)
    return sum(last - max(first, committed[at].offset if at in committed else 0) for at, (first, last) in ends.items())


def close_if_done(ledger: Ledger, broker: Broker, topic: str, group: str, run: RunRecord) -> None:
    """Close a run that is ending as soon as its queue is drained."""
    if run.ending and not run.ended and drained(ledger, broker, topic, group):
        ledger.run_close(topic, run.number)


class Producing(Service):
    """Says, again and again, that a producer is at work; a silent producer counts as gone."""

    BEAT_S = 2.0

    def __init__(self, ledger: Ledger, topic: str, producer: str, telemetry: Telemetry) -> None:
        super().__init__("yadtq-producing")
        self.run_record = NO_RUN
        self._ledger = ledger
        self._topic = topic
        self._producer = producer
        self._telemetry = telemetry

    def open(self) -> None:
        """Join the present run or open the next one; tried until Redis answers."""
        while self.beat().number == 0:
            self.stopping.wait(LOOK_S)

    def run(self) -> None:
        while not self.stopping.wait(self.BEAT_S):
            self.beat()

    def beat(self, *, ended: bool = False, left: bool = False) -> RunRecord:
        try:
            self.run_record = self._ledger.run_beat(
                self._topic, self._producer, ended=ended, left=left, known=self.run_record.number
            )
            self._telemetry.answered("Redis")
        except LedgerUnavailable as error:
            self._telemetry.failed("Redis", error)
        return self.run_record


class EndWatch(Service):
    """Calls `on_end` when the runs that were open or came after the start have ended.

    What had ended before the start does not count: whoever starts after an `end` waits for the next tasks.

    Args:
        topic: The topic to look at; None looks at all.
        broker: Where this watcher closes a run that is done; None only watches.
    """

    def __init__(
        self,
        ledger: Ledger,
        topic: str | None,
        telemetry: Telemetry,
        on_end: Callable[[], None],
        *,
        broker: Broker | None = None,
        group: str = "workers",
    ) -> None:
        super().__init__("yadtq-end")
        self._ledger = ledger
        self._topic = topic
        self._on_end = on_end
        self._broker = broker
        self._group = group
        self.ended_run = False  # whether the end has come
        self._before: dict[str, int] | None = None  # number of the last run that had ended when this started
        self._telemetry = telemetry

    def run(self) -> None:
        while not self.stopping.is_set():
            if self.look():
                self.ended_run = True
                self._on_end()
                return
            self.stopping.wait(LOOK_S)

    def look(self) -> bool:
        """Look once; say whether the end has come."""
        try:
            runs = {topic: run for topic, run in self._ledger.runs().items() if self._topic in (None, topic)}
            self._telemetry.answered("Redis")
            if self._before is None:
                self._before = {topic: run.number if run.ended else run.number - 1 for topic, run in runs.items()}
            mine = {topic: run for topic, run in runs.items() if run.number > self._before.get(topic, 0)}
            self._close(mine)
        except LedgerUnavailable as error:
            self._telemetry.failed("Redis", error)
            return False
        return bool(mine) and all(run.ended for run in mine.values())

    def _close(self, runs: dict[str, RunRecord]) -> None:
        if self._broker is None or not any(run.ending for run in runs.values()):
            return
        try:
            for topic, run in runs.items():
                close_if_done(self._ledger, self._broker, topic, self._group, run)
            self._telemetry.answered("Kafka")
        except BrokerUnavailable as error:
            self._telemetry.failed("Kafka", error)
