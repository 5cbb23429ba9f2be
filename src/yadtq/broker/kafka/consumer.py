"""A member of a consumer group.

One invariant: every call on one `KafkaConsumer` comes from the thread that made it. All calls on a consumer are
serialised inside the client, so a second thread would wait behind a poll, or for ever (measured on 2.16).
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from yadtq.broker.kafka.properties import ANSWER_S, client_log
from yadtq.broker.kafka.records import position_of, records_of, where_of
from yadtq.broker.kafka.silence import LOOK_MS, MOST, Silence
from yadtq.broker.protocol import Listener, Record, Start, TopicPartition
from yadtq.errors import BrokerUnavailable
from yadtq.offsets import Position

log = logging.getLogger("yadtq")

UNKNOWN = Position(0, "", committed=False)


class KafkaConsumer:
    """A member of a group on one topic."""

    def __init__(self, config: dict[str, Any], topic: str, listener: Listener, start: Start | None) -> None:
        self._listener = listener
        self._start = start
        self._failure: Exception | None = None  # of `start`
        self._owned: set[TopicPartition] = set()  # what the listener was told of
        self._closing = False
        self._problem = ""  # that Kafka does not answer, and how that is known
        self._told = 0  # looks since a problem was told, with the telling; 0: its end was told too
        self._silence = Silence()
        callbacks = {"on_commit": self._on_commit, "error_cb": self._on_error, "stats_cb": self._on_statistics}
        self._consumer = ck.Consumer({**config, **callbacks}, logger=client_log)
        self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def poll(self, timeout_s: float, most: int) -> list[Record]:
        # consume(n, t) waits the whole t for n messages; poll waits for the first one only.
        first = self._consumer.poll(timeout_s)
        if self._failure is not None:
            raise self._failure
        if first is not None:
            return records_of([first, *self._consumer.consume(most - 1, 0)])
        problem, self._problem = self._problem, ""
        if problem:
            self._told = 1
            raise BrokerUnavailable(f"Kafka does not answer: {problem}")
        return []

    def _on_error(self, error: KafkaError) -> None:
        """Told inside `poll`. Single connections come and go; only all of them at once is an outage."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._problem = error.str()

    def _on_statistics(self, statistics: str) -> None:
        """Told inside `poll`, every second."""
        self._silence.look(statistics)
        if self._silence.looks >= MOST:
            self._problem = f"nothing has come from it for {self._silence.looks * LOOK_MS // 1000} s"
        elif self._told:
            self._told += 1
            if self._told > 2 and not self._silence.looks:  # the first look counts what came before the problem too
                self._told = 0
                self._listener.answered()

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._consumer.pause([ck.TopicPartition(*where) for where in partitions])

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._consumer.resume([ck.TopicPartition(*where) for where in partitions])

    def seek(self, where: TopicPartition, offset: int) -> None:
        deadline = time.monotonic() + ANSWER_S
        while where in self._owned:
            try:
                self._consumer.seek(ck.TopicPartition(*where, offset))
                return
            except KafkaException as error:
                # A partition that was just assigned: the client's own thread has not begun with it, or does just now.
                if error.args[0].code() not in (KafkaError._STATE, KafkaError._OUTDATED) or time.monotonic() > deadline:
                    raise BrokerUnavailable(f"Kafka: {error.args[0].str()}") from error
                time.sleep(0.001)

    def commit(self, positions: Mapping[TopicPartition, Position], *, wait: bool) -> None:
        mine = {where: at for where, at in positions.items() if self._store(where, at)}
        offsets = [_offset(where, at) for where, at in mine.items()]
        if not offsets:
            return
        try:
            if wait:
                self._on_commit(None, self._consumer.commit(offsets=offsets, asynchronous=False) or [])
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._listener.committed(mine, error.args[0].str())

    def _store(self, where: TopicPartition, at: Position) -> bool:
        """The guard: the broker takes a commit for a partition of another live member, `store_offsets` refuses it.

        It is asked about one partition at a time: of several it refuses only when it refuses all.
        """
        try:
            self._consumer.store_offsets(offsets=[_offset(where, at)])
        except KafkaException as error:
            self._listener.committed({where: at}, error.args[0].str())
            return False
        return True

    def close(self) -> None:
        self._closing = True
        self._consumer.close()

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[ck.TopicPartition]) -> None:
        for at in partitions:
            problem = error or at.error
            self._listener.committed({where_of(at): position_of(at)}, problem.str() if problem else None)

    def _on_assign(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        if self._closing or not partitions:
            # Given out before the group heard that we leave. A question inside `close` would block for ANSWER_S.
            consumer.incremental_assign(partitions)
            return
        try:
            starts = self._start([where_of(at) for at in partitions]) if self._start is not None else {}
        except Exception as error:  # raised by poll: out of here it would have the client begin where it likes
            self._failure = error
            consumer.incremental_assign(partitions)
            consumer.pause(partitions)
            return
        begun = [
            ck.TopicPartition(at.topic, at.partition, starts[where_of(at)])
            for at in partitions
            if where_of(at) in starts
        ]
        stored = self._committed(consumer, [at for at in partitions if where_of(at) not in starts])
        # A start that was read together with its metadata, so that the bitmap counts from the right offset.
        consumer.incremental_assign([*begun, *(at if at.offset >= 0 else _bare(at) for at in stored)])
        # A partition that was paused when it went comes back paused, and nobody would know of it (librdkafka 2.16).
        consumer.resume([_bare(at) for at in partitions])
        positions = {where_of(at): Position(at.offset, "", committed=False) for at in begun}
        for at in stored:
            positions[where_of(at)] = position_of(at) if at.offset >= 0 else UNKNOWN
        self._owned |= positions.keys()
        self._listener.assigned(positions)

    def _committed(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> list[ck.TopicPartition]:
        try:
            return consumer.committed(partitions, timeout=ANSWER_S) if partitions else []
        except KafkaException as error:
            # Without the bitmap some records are claimed again and answered as settled: slower, never wrong.
            log.warning("committed offsets could not be read: %s", error)
            return partitions

    def _on_revoke(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._listener.revoked(self._forget(partitions))
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._listener.lost(self._forget(partitions))
        consumer.incremental_unassign(partitions)

    def _forget(self, partitions: list[ck.TopicPartition]) -> list[TopicPartition]:
        told = [where for where in map(where_of, partitions) if where in self._owned]
        self._owned -= set(told)
        return told


def _bare(at: ck.TopicPartition) -> ck.TopicPartition:
    return ck.TopicPartition(at.topic, at.partition)


def _offset(where: TopicPartition, at: Position) -> ck.TopicPartition:
    return ck.TopicPartition(*where, at.offset, at.metadata)
