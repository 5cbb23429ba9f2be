"""Reads whole topics without a group.

One invariant: a partition is assigned once; to watch it again does not move where it is read.
"""

from collections.abc import Mapping
from typing import Any

import confluent_kafka as ck

from yadtq.broker.kafka.properties import client_log
from yadtq.broker.kafka.records import records_of
from yadtq.broker.protocol import Record, TopicPartition


class KafkaReader:
    """Reads whole topics without a group."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._consumer = ck.Consumer(config, logger=client_log)
        self._watched: set[TopicPartition] = set()

    def watch(self, starts: Mapping[TopicPartition, int]) -> None:
        fresh = [ck.TopicPartition(*where, offset) for where, offset in starts.items() if where not in self._watched]
        if fresh:
            self._consumer.incremental_assign(fresh)
            self._watched |= starts.keys()

    def poll(self, timeout_s: float, most: int) -> list[Record]:
        first = self._consumer.poll(timeout_s)
        return records_of([first, *self._consumer.consume(most - 1, 0)]) if first is not None else []

    def close(self) -> None:
        self._consumer.close()
