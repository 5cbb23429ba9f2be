"""The Kafka broker, and the only importer of confluent_kafka.

One invariant: every call on one `KafkaConsumer` comes from the thread that made it. All calls on a consumer are
serialised inside the client, so a second thread would wait behind a poll, or for ever (measured on 2.16).
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType

from yadtq.broker import librdkafka
from yadtq.broker.protocol import (
    NO_HEADERS,
    Listener,
    Message,
    OnReport,
    OnReports,
    Record,
    Report,
    Start,
    T,
    TopicPartition,
)
from yadtq.broker.reports import Reports
from yadtq.errors import BrokerUnavailable, SettingsError
from yadtq.offsets import Position
from yadtq.settings import GroupProtocol

log = logging.getLogger("yadtq.kafka")
# librdkafka speaks of every lost connection; the worker says once a second at most that Kafka does not answer.
log.setLevel(logging.CRITICAL)

ANSWER_S = 10.0
REFUSALS = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}

UNREACHABLE = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError.REQUEST_TIMED_OUT}
UNKNOWN = Position(0, "", committed=False)
OnDelivery = Callable[[KafkaError | None, ck.Message], None]


class KafkaBroker:
    """One cluster, by its librdkafka properties."""

    def __init__(self, config: Mapping[str, str], shown: str) -> None:
        self._config: dict[str, Any] = {**librdkafka.CLIENT, **config}
        self._shown = shown
        self._lock = threading.Lock()
        self._admin: AdminClient | None = None
        self._asking = threading.Lock()
        self._onlookers: dict[str, ck.Consumer] = {}

    def producer(self) -> "KafkaProducer":
        return KafkaProducer({**librdkafka.PRODUCER_PREFERS, **self._config, **librdkafka.PRODUCER})

    def consumer(
        self,
        topic: str,
        group: str,
        listener: Listener,
        session_ms: int,
        *,
        protocol: GroupProtocol = "classic",
        start: Start | None = None,
    ) -> "KafkaConsumer":
        config = {**self._config, **librdkafka.member(group, protocol, session_ms)}
        return KafkaConsumer(config, topic, listener, start)

    def reader(self) -> "KafkaReader":
        return KafkaReader({**self._config, **librdkafka.READER, "group.id": f"yadtq-reader-{uuid.uuid4().hex}"})

    def partitions(self) -> dict[str, int]:
        try:
            topics = self._client().list_topics(timeout=ANSWER_S).topics
        except KafkaException as error:
            raise self._unavailable(error) from error
        return {name: len(topic.partitions) for name, topic in topics.items() if not name.startswith("__")}

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str]) -> bool:
        try:
            brokers = len(self._client().list_topics(timeout=ANSWER_S).brokers)
            full = {**config, "min.insync.replicas": "2"} if brokers >= 3 else dict(config)
            topic = NewTopic(name, partitions, replication_factor=min(3, brokers), config=full)
            self._client().create_topics([topic])[name].result(ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                self._wait_for(name, None)  # somebody else may have made it a moment ago
                return False
            raise self._unavailable(error) from error
        except TimeoutError as error:
            raise self._unavailable(error) from error
        self._wait_for(name, partitions)
        return True

    def grow_topic(self, name: str, partitions: int) -> int:
        try:
            self._client().create_partitions([NewPartitions(name, partitions)])[name].result(ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise BrokerUnavailable(f"Kafka at {self._shown} has no topic {name!r}") from error
            if error.args[0].code() != KafkaError.INVALID_PARTITIONS:
                raise self._unavailable(error) from error
            return self.partitions()[name]  # so many or more, by somebody else perhaps
        except TimeoutError as error:
            raise self._unavailable(error) from error
        self._wait_for(name, partitions)
        return partitions

    def _wait_for(self, topic: str, partitions: int | None) -> None:
        """Creation is acknowledged by the controller; the leaders of the partitions hear of it a moment later."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            problem = "it has no partitions yet"
            try:
                if len(self.end_offsets(topic)) >= (partitions or 1):  # every leader answered
                    return
            except BrokerUnavailable as error:
                problem = str(error)
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"topic {topic!r} is there and cannot be used yet; try again ({problem})")
            time.sleep(0.02)

    def end_offsets(self, topic: str) -> dict[TopicPartition, tuple[int, int]]:
        count = self.partitions().get(topic, 0)
        wanted = [ck.TopicPartition(topic, at) for at in range(count)]
        first = self._list_offsets(wanted, OffsetSpec.earliest())
        last = self._list_offsets(wanted, OffsetSpec.latest())
        return {where: (first[where], last[where]) for where in first}

    def _list_offsets(self, wanted: list[ck.TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, int]:
        if not wanted:
            return {}
        try:
            futures = self._client().list_offsets(dict.fromkeys(wanted, spec), request_timeout=ANSWER_S)
            return {TopicPartition(at.topic, at.partition): f.result(ANSWER_S).offset for at, f in futures.items()}
        except (KafkaException, TimeoutError) as error:
            raise self._unavailable(error) from error

    def committed(self, topic: str, group: str) -> dict[TopicPartition, Position]:
        count = self.partitions().get(topic, 0)
        wanted = [ck.TopicPartition(topic, at) for at in range(count)]
        if not wanted:
            return {}
        try:
            with self._asking:
                found = self._onlooker(group).committed(wanted, timeout=ANSWER_S)
        except KafkaException as error:
            raise self._unavailable(error) from error
        return {_where(at): Position(at.offset, at.metadata or "") for at in found if at.offset >= 0}

    def _onlooker(self, group: str) -> ck.Consumer:
        """A consumer that never joins the group and is only asked what the group has committed.

        Not `AdminClient.list_consumer_group_offsets`: where the broker answers that it is not (yet) the coordinator,
        librdkafka 2.16.0 follows a null pointer and the process is gone (rd_kafka_handle_OffsetFetch tells a consumer
        group that an admin client has not); and after a restart of the coordinator it gives no answer ever again.
        """
        if group not in self._onlookers:
            config = {**self._config, "group.id": group, "enable.auto.commit": False}
            self._onlookers[group] = ck.Consumer(config, logger=log)
        return self._onlookers[group]

    def recovery_ms(self, group: str, protocol: GroupProtocol, session_ms: int) -> int | None:
        if protocol == "consumer":
            # The group's own setting, where it has one, else the broker's; brokers before 4.0 know only the second.
            found = self._setting(ResourceType.GROUP, group, "consumer.session.timeout.ms")
            found = found or self._setting(ResourceType.BROKER, None, "group.consumer.session.timeout.ms")
            return int(found) if found else None
        least = int(self._setting(ResourceType.BROKER, None, "group.min.session.timeout.ms") or 0)
        most = int(self._setting(ResourceType.BROKER, None, "group.max.session.timeout.ms") or session_ms)
        if not least <= session_ms <= most:
            raise SettingsError(
                f"Kafka at {self._shown} takes sessions of {least / 1000:g} to {most / 1000:g} s, not"
                f" {session_ms / 1000:g} s; choose another --allowed, or change group.min.session.timeout.ms there"
            )
        return session_ms

    def _setting(self, kind: ResourceType, name: str | None, key: str) -> str | None:
        """A setting of a group or of a broker; None where we may not ask, or it is not known there."""
        try:
            name = name or str(next(iter(self._client().list_topics(timeout=ANSWER_S).brokers)))
            resource = ConfigResource(kind, name)
            entries = self._client().describe_configs([resource], request_timeout=ANSWER_S)[resource].result(ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() in UNREACHABLE:
                raise self._unavailable(error) from error
            return None
        except TimeoutError as error:
            raise self._unavailable(error) from error
        entry = entries.get(key)
        return entry.value if entry else None

    def close(self) -> None:
        with self._lock:
            self._admin = None
        with self._asking:
            while self._onlookers:
                self._onlookers.popitem()[1].close()

    def _client(self) -> AdminClient:
        with self._lock:
            if self._admin is None:
                self._admin = AdminClient(self._config, logger=log)
            return self._admin

    def _unavailable(self, error: Exception) -> BrokerUnavailable:
        reason = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
        return BrokerUnavailable(f"Kafka at {self._shown} does not answer: {reason}. Is it running? `yadtq status`")


class KafkaProducer:
    """A producer and the thread that serves its delivery reports. Every report is handed over on that thread, or at
    once on the caller's where the client takes no message."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = {**config, "error_cb": self._on_error}
        self._lock = threading.Lock()
        self._producer = ck.Producer(self._config, logger=log)
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
                self._producer = ck.Producer(self._config, logger=log)
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
                logging.getLogger("yadtq").exception("a delivery report could not be handed over")

    def _serve_retired(self) -> None:
        for producer in list(self._retired):
            producer.poll(0)
            if not len(producer):
                self._retired.remove(producer)

    @property
    def _unreported(self) -> int:
        return sum(map(len, [self._producer, *self._retired]))

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


class KafkaConsumer:
    """A member of a group on one topic."""

    def __init__(self, config: dict[str, Any], topic: str, listener: Listener, start: Start | None = None) -> None:
        self._listener = listener
        self._start = start
        self._failure: Exception | None = None  # of `start`
        self._owned: set[TopicPartition] = set()  # what the listener was told of
        self._closing = False
        self._problem: KafkaError | None = None
        callbacks = {"on_commit": self._on_commit, "error_cb": self._on_error}
        self._consumer = ck.Consumer({**config, **callbacks}, logger=log)
        self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def poll(self, timeout_s: float, most: int) -> list[Record]:
        # consume(n, t) waits the whole t for n messages; poll waits for the first one only.
        first = self._consumer.poll(timeout_s)
        if self._failure is not None:
            raise self._failure
        if first is not None:
            return _records([first, *self._consumer.consume(most - 1, 0)])
        problem, self._problem = self._problem, None
        if problem is not None:
            raise BrokerUnavailable(f"Kafka does not answer: {problem.str()}")
        return []

    def _on_error(self, error: KafkaError) -> None:
        """Told inside `poll`. Single connections come and go; only all of them at once is an outage."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._problem = error

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
                # A partition that was just assigned: the client's own thread has not begun with it yet.
                if error.args[0].code() != KafkaError._STATE or time.monotonic() > deadline:
                    raise BrokerUnavailable(f"Kafka: {error.args[0].str()}") from error
                time.sleep(0.001)

    def commit(self, positions: Mapping[TopicPartition, Position], *, wait: bool) -> None:
        mine = {where: at for where, at in positions.items() if self._store(where, at)}
        offsets = [_position(where, at) for where, at in mine.items()]
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
            self._consumer.store_offsets(offsets=[_position(where, at)])
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
            position = {_where(at): Position(at.offset, at.metadata or "")}
            self._listener.committed(position, problem.str() if problem else None)

    def _on_assign(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        if self._closing or not partitions:
            # Given out before the group heard that we leave. A question inside `close` would block for ANSWER_S.
            consumer.incremental_assign(partitions)
            return
        try:
            starts = self._start([_where(at) for at in partitions]) if self._start is not None else {}
        except Exception as error:  # raised by poll: out of here it would have the client begin where it likes
            self._failure = error
            consumer.incremental_assign(partitions)
            consumer.pause(partitions)
            return
        begun = [
            ck.TopicPartition(at.topic, at.partition, starts[_where(at)]) for at in partitions if _where(at) in starts
        ]
        stored = self._committed(consumer, [at for at in partitions if _where(at) not in starts])
        # A start that was read together with its metadata, so that the bitmap counts from the right offset.
        consumer.incremental_assign([*begun, *(at if at.offset >= 0 else _bare(at) for at in stored)])
        # A partition that was paused when it went comes back paused, and nobody would know of it (librdkafka 2.16).
        consumer.resume([_bare(at) for at in partitions])
        positions = {_where(at): Position(at.offset, "", committed=False) for at in begun}
        for at in stored:
            known = at.offset >= 0
            positions[_where(at)] = Position(at.offset, at.metadata or "") if known else UNKNOWN
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
        told = [where for where in map(_where, partitions) if where in self._owned]
        self._owned -= set(told)
        return told


class KafkaReader:
    """Reads whole topics without a group."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._consumer = ck.Consumer(config, logger=log)
        self._watched: set[TopicPartition] = set()

    def watch(self, starts: Mapping[TopicPartition, int]) -> None:
        fresh = [ck.TopicPartition(*where, offset) for where, offset in starts.items() if where not in self._watched]
        if fresh:
            self._consumer.incremental_assign(fresh)
            self._watched |= starts.keys()

    def poll(self, timeout_s: float, most: int) -> list[Record]:
        first = self._consumer.poll(timeout_s)
        return _records([first, *self._consumer.consume(most - 1, 0)]) if first is not None else []

    def close(self) -> None:
        self._consumer.close()


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


def _bare(at: ck.TopicPartition) -> ck.TopicPartition:
    return ck.TopicPartition(at.topic, at.partition)


def _position(where: TopicPartition, at: Position) -> ck.TopicPartition:
    return ck.TopicPartition(*where, at.offset, at.metadata)


def _where(at: ck.TopicPartition) -> TopicPartition:
    return TopicPartition(at.topic, at.partition)


def _records(messages: Sequence[ck.Message]) -> list[Record]:
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
