"""One Kafka cluster: makes producers, consumers and readers, and answers questions about topics and groups.

One invariant: no question lets an error of the client out; what Kafka does not answer raises BrokerUnavailable. Any
thread may ask.
"""

import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ClusterMetadata, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType

from yadtq.broker.kafka import properties
from yadtq.broker.kafka.admin import Admin
from yadtq.broker.kafka.consumer import KafkaConsumer
from yadtq.broker.kafka.producer import KafkaProducer
from yadtq.broker.kafka.properties import ANSWER_S, client_log
from yadtq.broker.kafka.reader import KafkaReader
from yadtq.broker.kafka.records import position_of, where_of
from yadtq.broker.kafka.sender import KafkaSender
from yadtq.broker.protocol import Listener, Start, TopicPartition
from yadtq.errors import BrokerUnavailable, SettingsError
from yadtq.offsets import Position
from yadtq.settings import GroupProtocol

UNREACHABLE = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError.REQUEST_TIMED_OUT}


class KafkaBroker:
    """One cluster, by its librdkafka properties.

    Args:
        shown: Its address, for messages.
        hint: What they say where it does not answer.
    """

    def __init__(self, config: Mapping[str, str], shown: str, hint: str = "Is it running?") -> None:
        self._config: dict[str, Any] = {**properties.CLIENT, **config}
        self._shown, self._hint = shown, hint
        self._lock = threading.Lock()
        self._admin: Admin | None = None
        self._asking = threading.Lock()
        self._onlookers: dict[str, ck.Consumer] = {}

    def producer(self) -> KafkaProducer:
        return KafkaProducer(self._producer_config)

    def sender(self) -> KafkaSender:
        return KafkaSender(self._producer_config)

    @property
    def _producer_config(self) -> dict[str, Any]:
        return {**properties.PRODUCER_PREFERS, **self._config, **properties.PRODUCER}

    def consumer(
        self,
        topic: str,
        group: str,
        listener: Listener,
        session_ms: int,
        *,
        protocol: GroupProtocol = "classic",
        start: Start | None = None,
    ) -> KafkaConsumer:
        config = {**self._config, **properties.member(group, protocol, session_ms)}
        return KafkaConsumer(config, topic, listener, start)

    def reader(self) -> KafkaReader:
        return KafkaReader({**self._config, **properties.READER, "group.id": f"yadtq-reader-{uuid.uuid4().hex}"})

    def partitions(self) -> dict[str, int]:
        topics = self._metadata().topics
        return {name: len(topic.partitions) for name, topic in topics.items() if not name.startswith("__")}

    def _metadata(self) -> ClusterMetadata:
        admin = self._asked()
        try:
            return admin.topics(ANSWER_S)
        except KafkaException as error:
            with self._lock:
                if self._admin is admin:
                    self._admin = None
            raise self._unavailable(error, admin.problem) from error

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str]) -> bool:
        brokers = len(self._metadata().brokers)
        admin = self._asked()
        try:
            full = {**config, "min.insync.replicas": "2"} if brokers >= 3 else dict(config)
            topic = NewTopic(name, partitions, replication_factor=min(3, brokers), config=full)
            admin.client.create_topics([topic])[name].result(ANSWER_S)
        except (KafkaException, TimeoutError) as error:
            if _code(error) != KafkaError.TOPIC_ALREADY_EXISTS:
                raise self._unavailable(error) from error
            self._wait_for(name, None)  # somebody else may have made it a moment ago
            return False
        self._wait_for(name, partitions)
        return True

    def grow_topic(self, name: str, partitions: int) -> int:
        admin = self._asked()
        try:
            admin.client.create_partitions([NewPartitions(name, partitions)])[name].result(ANSWER_S)
        except (KafkaException, TimeoutError) as error:
            if _code(error) == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise BrokerUnavailable(f"Kafka at {self._shown} has no topic {name!r}") from error
            if _code(error) != KafkaError.INVALID_PARTITIONS:
                raise self._unavailable(error) from error
            return self.partitions()[name]  # so many or more, by somebody else perhaps
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
        wanted = self._partitions_of(topic)
        first = self._list_offsets(wanted, OffsetSpec.earliest())
        last = self._list_offsets(wanted, OffsetSpec.latest())
        return {where: (first[where], last[where]) for where in first}

    def _partitions_of(self, topic: str) -> list[ck.TopicPartition]:
        return [ck.TopicPartition(topic, at) for at in range(self.partitions().get(topic, 0))]

    def _list_offsets(self, wanted: list[ck.TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, int]:
        if not wanted:
            return {}
        admin = self._asked()
        try:
            futures = admin.client.list_offsets(dict.fromkeys(wanted, spec), request_timeout=ANSWER_S)
            return {where_of(at): f.result(ANSWER_S).offset for at, f in futures.items()}
        except (KafkaException, TimeoutError) as error:
            raise self._unavailable(error) from error

    def committed(self, topic: str, group: str) -> dict[TopicPartition, Position]:
        wanted = self._partitions_of(topic)
        if not wanted:
            return {}
        try:
            with self._asking:
                found = self._onlooker(group).committed(wanted, timeout=ANSWER_S)
        except KafkaException as error:
            raise self._unavailable(error) from error
        return {where_of(at): position_of(at) for at in found if at.offset >= 0}

    def _onlooker(self, group: str) -> ck.Consumer:
        """A consumer that never joins the group and is only asked what the group has committed.

        Not `AdminClient.list_consumer_group_offsets`: where the broker answers that it is not (yet) the coordinator,
        librdkafka 2.16.0 follows a null pointer and the process is gone (rd_kafka_handle_OffsetFetch tells a consumer
        group that an admin client has not); and after a restart of the coordinator it gives no answer ever again.
        """
        if group not in self._onlookers:
            config = {**self._config, "group.id": group, "enable.auto.commit": False}
            self._onlookers[group] = ck.Consumer(config, logger=client_log)
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
            bound = "min" if session_ms < least else "max"
            raise SettingsError(
                f"Kafka at {self._shown} takes sessions of {least / 1000:g} to {most / 1000:g} s, not"
                f" {session_ms / 1000:g} s; choose another --allowed, or change group.{bound}.session.timeout.ms there"
            )
        return session_ms

    def _setting(self, kind: ResourceType, name: str | None, key: str) -> str | None:
        """A setting of a group or of a broker; None where we may not ask, or it is not known there."""
        name = name or str(next(iter(self._metadata().brokers)))
        admin = self._asked()
        try:
            resource = ConfigResource(kind, name)
            entries = admin.client.describe_configs([resource], request_timeout=ANSWER_S)[resource].result(ANSWER_S)
        except (KafkaException, TimeoutError) as error:
            code = _code(error)
            if code is None or code in UNREACHABLE:
                raise self._unavailable(error) from error
            return None
        entry = entries.get(key)
        return entry.value if entry else None

    def close(self) -> None:
        with self._lock:
            self._admin = None
        with self._asking:
            while self._onlookers:
                self._onlookers.popitem()[1].close()

    def _asked(self) -> Admin:
        """The client to ask. Keep it until it has answered: another thread may give it up."""
        with self._lock:
            if self._admin is None:
                self._admin = Admin(self._config)
            return self._admin

    def _unavailable(self, error: Exception, problem: str = "") -> BrokerUnavailable:
        reason = problem or (error.args[0].str() if isinstance(error, KafkaException) else "no answer in time")
        return BrokerUnavailable(f"Kafka at {self._shown} does not answer: {reason}. {self._hint}")


def _code(error: Exception) -> int | None:
    """Kafka's number for an error; None where no answer came in time."""
    return error.args[0].code() if isinstance(error, KafkaException) else None
