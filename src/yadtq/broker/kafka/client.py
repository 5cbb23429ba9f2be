"""A client that takes messages, and the one that follows it after a fatal error.

One invariant: a message that was taken gets one call of its `on_delivery`, in some `poll`; what is not taken is told at
once. A fatal error of the client that took it changes nothing about that.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from yadtq.broker.kafka.properties import ANSWER_S, client_log
from yadtq.broker.protocol import Message, Report

REFUSALS = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}
OnDelivery = Callable[[KafkaError | None, ck.Message], None]


class Client:
    """Takes messages from any thread; whoever polls gets the reports of all.

    Args:
        config: librdkafka's properties.
        make_room: Waits a moment for reports to make room in a full buffer.
    """

    def __init__(self, config: dict[str, Any], make_room: Callable[[], object]) -> None:
        self._config = {**config, "error_cb": self._on_error}
        self._make_room = make_room
        self._lock = threading.Lock()
        self._producer = ck.Producer(self._config, logger=client_log)
        self._retired: list[ck.Producer] = []  # met a fatal error; some of their reports are still to come
        self._broken = False

    def send(self, message: Message, on_delivery: OnDelivery, until_mono: float | None = None) -> Report | None:
        """Give a message to the client; a report where it does not take it.

        Args:
            until_mono: How long to wait for room in a full buffer; for `ANSWER_S` where left out.
        """
        if self._broken:
            self._replace()
        try:
            _produce(self._producer, message, on_delivery)
        except BufferError:
            return self._send_late(message, on_delivery, until_mono)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError._FATAL:  # nobody has polled since, so nobody was told
                self._broken = True
                self._replace()
                return self._send_late(message, on_delivery, until_mono)
            if code == KafkaError._UNKNOWN_PARTITION and self._grown(message):
                return self._send_late(message, on_delivery, until_mono)
            return refusal(error.args[0])
        return None

    def _grown(self, message: Message) -> bool:
        """Whether the topic has this partition after all: the client may not have heard yet that it has grown."""
        try:
            found = self._producer.list_topics(message.topic, timeout=ANSWER_S).topics[message.topic]
        except KafkaException:
            return False
        return message.partition in found.partitions

    def _send_late(self, message: Message, on_delivery: OnDelivery, until_mono: float | None) -> Report | None:
        """Try again until there is room in the client's buffer."""
        deadline_mono = time.monotonic() + ANSWER_S if until_mono is None else until_mono
        while True:
            try:
                _produce(self._producer, message, on_delivery)
            except BufferError:
                if time.monotonic() >= deadline_mono:
                    return Report("the producer's buffer is full and Kafka takes nothing")
                self._make_room()
            except KafkaException as error:
                return refusal(error.args[0])
            else:
                return None

    def _replace(self) -> None:
        """An idempotent producer that met a fatal error takes nothing more, for ever."""
        with self._lock:
            if self._broken:
                self._retired.append(self._producer)
                self._producer = ck.Producer(self._config, logger=client_log)
                self._broken = False

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._broken = True

    def poll(self, timeout_s: float) -> None:
        """Wait for reports, and have `on_delivery` called for all that are there, on this thread."""
        self._producer.poll(timeout_s)
        for producer in list(self._retired):
            producer.poll(0)
            if not len(producer):
                self._retired.remove(producer)

    def __len__(self) -> int:
        """How many messages are without a report."""
        return sum(map(len, [self._producer, *self._retired]))


def _produce(producer: ck.Producer, message: Message, on_delivery: OnDelivery) -> None:
    partition = -1 if message.partition is None else message.partition
    if message.headers:
        headers: Any = dict(message.headers)
        producer.produce(message.topic, message.value, message.key, partition, on_delivery, headers=headers)
    else:
        producer.produce(message.topic, message.value, message.key, partition, on_delivery)


def report_of(error: KafkaError | None, delivered: ck.Message) -> Report:
    """What the client says of a message, as a report."""
    if error is not None:
        return refusal(error)
    return Report(None, delivered.partition() or 0, delivered.offset() or 0)


def refusal(error: KafkaError) -> Report:
    """An error of the client, as a report."""
    too_large = error.code() == KafkaError.MSG_SIZE_TOO_LARGE
    return Report(error.str(), refused=error.code() in REFUSALS, too_large=too_large)
