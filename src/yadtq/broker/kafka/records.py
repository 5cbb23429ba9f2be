"""What the client hands out, as values of the port.

One invariant: a record that the client handed out is never dropped, whatever errors come with it.
"""

from collections.abc import Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError

from yadtq.broker.protocol import NO_HEADERS, Record, TopicPartition
from yadtq.errors import BrokerUnavailable
from yadtq.offsets import Position


def where_of(at: ck.TopicPartition) -> TopicPartition:
    return TopicPartition(at.topic, at.partition)


def position_of(at: ck.TopicPartition) -> Position:
    return Position(at.offset, at.metadata or "")


def records_of(messages: Sequence[ck.Message]) -> list[Record]:
    """Records and errors come mixed. An error must not throw away the records around it: the client has moved on."""
    records: list[Record] = []
    problem: KafkaError | None = None
    for message in messages:
        error = message.error()
        if error is None:
            records.append(_record(message))
        elif error.code() != KafkaError._PARTITION_EOF:
            problem = error
    if problem is not None and not records:
        raise BrokerUnavailable(f"Kafka: {problem.str()}")
    return records


def _record(message: ck.Message) -> Record:
    headers: Any = message.headers()
    key: Any = message.key()
    value: Any = message.value()
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        value or b"",
        key,
        {name: data or b"" for name, data in headers} if headers else NO_HEADERS,
        max(message.timestamp()[1], 0),
    )
