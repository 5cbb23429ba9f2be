"""Sends messages to Kafka, and the thread that hands over what became of them.

One invariant: a message gets one report, or `close` counts it as still without one; a fatal error of the client that
took it changes nothing about that.
"""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError

from yadtq.broker.kafka.client import Client, report_of
from yadtq.broker.kafka.reports import Reports
from yadtq.broker.protocol import Message, OnReport, OnReports, Report, T

log = logging.getLogger("yadtq")


class KafkaProducer:
    """A producer and the thread that serves its delivery reports. Every report is handed over on that thread, or at
    once on the caller's where the client takes no message."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._closing = threading.Event()
        self._client = Client(
            config, make_room=lambda: self._closing.wait(0.01)
        )  # the reports make it, on their thread
        self._reports = Reports()
        self._close_mono = 0.0
        self._thread = threading.Thread(target=self._serve, name="yadtq-reports", daemon=True)
        self._thread.start()

    def produce(self, message: Message, on_report: OnReport) -> None:
        refused = self._client.send(message, lambda error, delivered: on_report(report_of(error, delivered)))
        if refused is not None:
            on_report(refused)

    def produce_batch(self, messages: Sequence[Message], tags: Sequence[T], on_reports: OnReports[T]) -> None:
        refused: list[tuple[T, Report]] = []
        for message, tag in zip(messages, tags, strict=True):
            report = self._client.send(message, _Delivery(self._reports, on_reports, tag))
            if report is not None:
                refused.append((tag, report))
        if refused:
            on_reports(refused)

    def _serve(self) -> None:
        while not self._closing.is_set() or (self._unreported and time.monotonic() < self._close_mono):
            try:
                self._client.poll(0.1)
                self._reports.hand_over()
            except Exception:  # of somebody's callback; the reports of all others must come all the same
                log.exception("a delivery report could not be handed over")

    @property
    def _unreported(self) -> int:
        return len(self._reports) + len(self._client)

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
        self._reports.add(self._on_reports, self._tag, report_of(error, delivered))
