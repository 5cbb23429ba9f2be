"""Sends messages to Kafka for threads that wait for the reports, and serve them meanwhile.

One invariant: only one thread polls at a time, so nobody sits in a poll while another one is handed what it waits for.

A report that a thread of its own hands over costs two changes of threads, and each of them waits for the interpreter's
lock: 100 us, where Kafka itself takes 120.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError

from yadtq.broker.kafka.client import Client, report_of
from yadtq.broker.kafka.properties import ANSWER_S
from yadtq.broker.protocol import Flight, Message

TURN_S = 0.01  # where several wait, one polls for all: the others look so often whether theirs has landed
MIND_S = 1.0


class KafkaSender:
    """A client that is polled by those who wait, and now and then by a thread, for what it has to say otherwise."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._polling = threading.Lock()
        self._client = Client(config, make_room=lambda: self._poll(TURN_S))
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._mind, name="yadtq-sender", daemon=True)
        self._thread.start()

    def send(self, messages: Sequence[Message]) -> Flight:
        flight, until_mono = Flight(len(messages)), time.monotonic() + ANSWER_S
        for at, message in enumerate(messages):
            refused = self._client.send(message, _Landing(flight, at), until_mono)
            if refused is not None:
                flight.land(at, refused)
        return flight

    def wait(self, flight: Flight, timeout_s: float, enough: int | None = None) -> list[int]:
        until_mono = time.monotonic() + timeout_s
        while not flight.has(enough) and (left_s := until_mono - time.monotonic()) > 0:
            self._poll(min(left_s, TURN_S), flight, enough)
        return flight.fresh()

    def _poll(self, timeout_s: float, flight: Flight | None = None, enough: int | None = None) -> None:
        """Poll, or wait while another thread does."""
        if self._polling.acquire(timeout=timeout_s):
            try:
                if flight is None or not flight.has(enough):  # the other thread may have been handed it
                    self._client.poll(timeout_s)
            finally:
                self._polling.release()

    def _mind(self) -> None:
        """Errors and words of an idle client would pile up."""
        while not self._closing.wait(MIND_S):
            self._poll(0)

    def close(self, timeout_s: float) -> int:
        self._closing.set()
        self._thread.join()
        until_mono = time.monotonic() + timeout_s
        while len(self._client) and time.monotonic() < until_mono:
            self._poll(TURN_S)
        return len(self._client)


class _Landing:
    """What the client calls when the fate of one message is known."""

    __slots__ = ("_at", "_flight")

    def __init__(self, flight: Flight, at: int) -> None:
        self._flight = flight
        self._at = at

    def __call__(self, error: KafkaError | None, delivered: ck.Message) -> None:
        self._flight.land(self._at, report_of(error, delivered))
