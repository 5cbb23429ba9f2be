"""Sends messages to Kafka, and the thread that hands over what became of them.

One invariant: a message gets one report, or `close` counts it as still without one; a fatal error of the client that
took it changes nothing about that.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from yadtq.broker.kafka.properties import ANSWER_S, client_log
from yadtq.broker.kafka.reports import Reports
from yadtq.broker.protocol import Message, OnReport, OnReports, Report, T

log = logging.getLogger("yadtq")

REFUSALS = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}
OnDelivery = Callable[[KafkaError | None, ck.Message], None]


class KafkaProducer:
    """A producer and the thread that serves its delivery reports. Every report is handed over on that thread, or at
    once on the caller's where the client takes no message."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = {**config, "error_cb": self._on_error}
        self._lock = threading.Lock()
        self._producer = ck.Producer(self._config, logger=client_log)
        self._retired: list[ck.Producer] = []  # met a fatal error; some of their reports are still to come
        self._broken = False
        self._reports = Reports()
        self._closing = threading.Event()
        self._close_mono = 0.0
        self._thread = threading.Thread(target=self._serve, name="yadtq-reports", daemon=True)
        self._thread.start()

    def produce(self, message: Message, on_report: OnReport) -> None:
        refused = self._send(message, lambda error, delivered: on_report(_report(error, delivered)))
        if refused is not None:
            on_report(refused)

    def produce_batch(self, messages: Sequence[Message], tags: Sequence[T], on_reports: OnReports[T]) -> None:
        refused: list[tuple[T, Report]] = []
        for message, tag in zip(messages, tags, strict=True):
            report = self._send(message, _Delivery(self._reports, on_reports, tag))
            if report is not None:
                refused.append((tag, report))
        if refused:
            on_reports(refused)

    def _send(self, message: Message, on_delivery: OnDelivery) -> Report | None:
        """Give a message to the client; a report where it does not take it."""
        if self._broken:
            self._replace()
        try:
            _produce(self._producer, message, on_delivery)
        except BufferError:
            return self._send_late(message, on_delivery)
        except KafkaException as error:
            if error.args[0].code() == KafkaError._UNKNOWN_PARTITION and self._grown(message):
                return self._send_late(message, on_delivery)
            return _refusal(error.args[0])
        return None

    def _grown(self, message: Message) -> bool:
        """Whether the topic has this partition after all: the client may not have heard yet that it has grown."""
        try:
            found = self._producer.list_topics(message.topic, timeout=ANSWER_S).topics[message.topic]
        except KafkaException:
            return False
        return message.partition in found.partitions

    def _send_late(self, message: Message, on_delivery: OnDelivery) -> Report | None:
        """Try again until there is room in the client's buffer. The reports make it, on their thread."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            try:
                _produce(self._producer, message, on_delivery)
            except BufferError:
                self._closing.wait(0.01)
            except KafkaException as error:
                return _refusal(error.args[0])
            else:
                return None
        return Report("the producer's buffer is full and Kafka takes nothing")

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

    def _serve(self) -> None:
        while not self._closing.is_set() or (self._unreported and time.monotonic() < self._close_mono):
            try:
                self._producer.poll(0.1)
                self._serve_retired()
                self._reports.hand_over()
            except Exception:  # of somebody's callback; the reports of all others must come all the same
                log.exception("a delivery report could not be handed over")

    def _serve_retired(self) -> None:
        for producer in list(self._retired):
            producer.poll(0)
            if not len(producer):
                self._retired.remove(producer)

    @property
    def _unreported(self) -> int:
        return len(self._reports) + sum(map(len, [self._producer, *self._retired]))

    def close(self, timeout_s: float) -> int:
        self._close_mono = time.monotonic() + timeout_s
        self._closing.set()
        self._thread.join()
        return self._unreported


class _Delivery:
    """What the client calls when the fate of one message of a batch is known. A closure costs twice as much."""

    __slots__ = ("_on_reports", "_reports", "_tag")

    def __init__(self, reports: Reports, on_reports: OnReports[Any], tag: object) -> None:
        self._reports = reports
        self._on_reports = on_reports
        self._tag = tag

    def __call__(self, error: KafkaError | None, delivered: ck.Message) -> None:
        self._reports.add(self._on_reports, self._tag, _report(error, delivered))


def _produce(producer: ck.Producer, message: Message, on_delivery: OnDelivery) -> None:
    partition = -1 if message.partition is None else message.partition
    if message.headers:
        headers: Any = dict(message.headers)
        producer.produce(message.topic, message.value, message.key, partition, on_delivery, headers=headers)
    else:
        producer.produce(message.topic, message.value, message.key, partition, on_delivery)


def _report(error: KafkaError | None, delivered: ck.Message) -> Report:
    if error is not None:
        return _refusal(error)
    return Report(None, delivered.partition() or 0, delivered.offset() or 0)


def _refusal(error: KafkaError) -> Report:
    too_large = error.code() == KafkaError.MSG_SIZE_TOO_LARGE
    return Report(error.str(), refused=error.code() in REFUSALS, too_large=too_large)
