"""The queues of a cluster as an operator sees them, and more partitions for one of them.

One invariant: only the tasks' topic grows. A task's outcomes lie in the partition that its id gives, so the outcomes
topic keeps its number for ever; and where the order of keys counts nothing grows before everything is finished.
"""

from collections.abc import Collection
from dataclasses import dataclass

from yadtq.broker import Broker
from yadtq.errors import NotGrowable, SettingsError, UnknownQueue
from yadtq.layout import Layout
from yadtq.ledger import Ledger, WorkerRecord
from yadtq.offsets import lag

PARTITIONS_MOST = 10_000


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """One queue."""

    name: str
    partitions: int
    lag: int  # records that the group has not finished; what is finished out of order does not count
    orders: Collection[str]  # as its workers serve it; of DEAD ones too


class Queues:
    """All queues under one prefix, as one consumer group works on them."""

    def __init__(self, broker: Broker, ledger: Ledger, layout: Layout, group: str) -> None:
        self._broker = broker
        self._ledger = ledger
        self._layout = layout
        self._group = layout.group(group)

    def facts(self) -> list[QueueFacts]:
        """Return what is known of each queue. Raises BrokerUnavailable, LedgerUnavailable."""
        topics = self._broker.partitions()
        workers = self._ledger.workers()
        return [self._facts(name, topics, workers) for name in self._layout.queues(set(topics))]

    def _facts(self, name: str, topics: dict[str, int], workers: list[WorkerRecord]) -> QueueFacts:
        topic = self._layout.queue(name).tasks
        committed = self._broker.committed(topic, self._group)
        ends = self._broker.end_offsets(topic)
        behind = sum(lag(first, end, committed.get(where)) for where, (first, end) in ends.items())
        return QueueFacts(name, topics[topic], behind, _orders(topic, workers))

    def grow(self, name: str, partitions: int) -> int:
        """Give a queue so many partitions; return how many it had.

        Raises:
            UnknownQueue: There is no such queue.
            SettingsError: It has as many or more, or the number is no number of partitions.
            NotGrowable: Its workers keep the order of keys, and something is not finished.
            BrokerUnavailable, LedgerUnavailable: A store does not answer.
        """
        topics, topic = self._broker.partitions(), self._layout.queue(name).tasks
        known = self._layout.queues(set(topics))
        if name not in known:
            raise UnknownQueue(name, known)
        before = topics[topic]
        if not before < partitions <= PARTITIONS_MOST:
            raise SettingsError(
                f"queue {name!r} has {before} partitions and gets {before + 1} to {PARTITIONS_MOST:,}, "
                f"not {partitions}; Kafka takes no partition away"
            )
        if "key" in _orders(topic, self._ledger.workers()):
            self._check_drained(name, topic)
        self._broker.grow_topic(topic, partitions)
        return before

    def _check_drained(self, name: str, topic: str) -> None:
        committed = self._broker.committed(topic, self._group)
        ends = self._broker.end_offsets(topic)
        starts = {where: committed[where].offset if where in committed else first for where, (first, _) in ends.items()}
        left = sum(max(end - starts[where], 0) for where, (_, end) in ends.items())
        if left:
            raise NotGrowable(
                f"queue {name!r} keeps the order of keys, and {left} of its records are not finished and committed by "
                f"group {self._group!r}: with more partitions a key's new tasks would go to another one and pass "
                "these. Let nobody submit, wait until `yadtq queue list` shows no lag, then grow it"
            )


def _orders(topic: str, workers: list[WorkerRecord]) -> list[str]:
    return sorted({worker.order for worker in workers if worker.topic == topic and worker.order})
