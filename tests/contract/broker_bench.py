"""A broker on a bench: the port, a topic of its own, and members of groups that write down what they are told."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from waiting import eventually
from yadtq.broker import Broker, Message, Record, Report, Start, TopicPartition
from yadtq.broker.kafka import properties
from yadtq.offsets import Position
from yadtq.settings import GroupProtocol

SESSION_MS = 6_000
HEARTBEAT_MS = 100  # a member hears of a rebalance by its next one, and most of these tests begin with a rebalance
Told = tuple["Member", str, TopicPartition | None]


class BrokerBench:
    """Moves in few words. Everything it opened is closed by `close`."""

    def __init__(self, broker: Broker, topic: str, protocol: GroupProtocol = "classic") -> None:
        self.broker = broker
        self.protocol: GroupProtocol = protocol
        self.topic = topic
        self.producer = broker.producer()
        self.told: list[Told] = []  # by all members, in the order it happened
        self._members: list[Member] = []

    def create(self, partitions: int = 1, **config: str) -> None:
        assert self.broker.create_topic(self.topic, partitions, config)

    def at(self, partition: int) -> TopicPartition:
        return TopicPartition(self.topic, partition)

    def send(self, *values: bytes, **facts: Any) -> list[Report]:
        """Produce and wait for the reports, which come in any order."""
        reports: dict[int, Report] = {}
        for number, value in enumerate(values):

            def on_report(report: Report, number: int = number) -> None:
                assert number not in reports
                reports[number] = report

            self.producer.produce(Message(**({"topic": self.topic, "value": value} | facts)), on_report)
        eventually(lambda: len(reports) == len(values))
        return [reports[number] for number in range(len(values))]

    def join(self, group: str = "g", start: Start | None = None) -> "Member":
        member = Member(self, self.broker, f"{self.topic}-{group}", start)
        self._members.append(member)
        return member

    def committed(self, group: str = "g") -> dict[TopicPartition, Position]:
        return self.broker.committed(self.topic, f"{self.topic}-{group}")

    def close(self) -> None:
        for member in self._members:
            member.close()
        assert self.producer.close(10) == 0
        self.broker.close()


def hasty(group: str, protocol: GroupProtocol, session_ms: int, really: Any = properties.member) -> dict[str, Any]:
    """A member as it is, but for its heartbeat, where that is its own to choose."""
    config: dict[str, Any] = really(group, protocol, session_ms)
    return {**config, "heartbeat.interval.ms": HEARTBEAT_MS} if protocol == "classic" else config


def hear_soon(kafka: str, *groups: str) -> None:
    """The same for the members of these groups with the protocol `consumer`, where it is the broker's to choose.

    It gives out partitions anew once a second at most; here at once.
    """
    settings = {"consumer.heartbeat.interval.ms": str(HEARTBEAT_MS), "consumer.assignment.interval.ms": "0"}
    entries = [ConfigEntry(*each, incremental_operation=AlterConfigOpType.SET) for each in settings.items()]
    wanted = [ConfigResource(ResourceType.GROUP, group, incremental_configs=entries) for group in groups]
    admin = AdminClient({"bootstrap.servers": kafka})  # held until the answers are there
    for answer in admin.incremental_alter_configs(wanted).values():
        answer.result(10)


class Member:
    """A consumer and its listener. The test's thread owns all of them and polls them in turn."""

    def __init__(self, bench: BrokerBench, broker: Broker, group: str, start: Start | None) -> None:
        self.owned: dict[TopicPartition, Position] = {}  # with the position each was given with
        self.answers: list[tuple[Mapping[TopicPartition, Position], str | None]] = []  # to commits
        self.records: list[Record] = []
        self._told = bench.told
        self._closed = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(properties, "member", hasty)
            self.consumer = broker.consumer(bench.topic, group, self, SESSION_MS, protocol=bench.protocol, start=start)

    def assigned(self, partitions: Mapping[TopicPartition, Position]) -> None:
        assert not self.owned.keys() & partitions.keys()
        self.owned |= partitions
        self._told += [(self, "assigned", where) for where in partitions]

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        for where in partitions:
            del self.owned[where]
        self._told += [(self, "revoked", where) for where in partitions]

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        for where in partitions:
            del self.owned[where]
        self._told += [(self, "lost", where) for where in partitions]

    def committed(self, positions: Mapping[TopicPartition, Position], error: str | None) -> None:
        self.answers.append((positions, error))

    def answered(self) -> None:
        self._told.append((self, "answered", None))

    def poll(self, most: int = 500) -> list[Record]:
        records = self.consumer.poll(0.02, most)
        self.records += records
        return records

    def own(self, count: int) -> "Member":
        """Poll until it owns so many partitions."""
        eventually(lambda: self.poll() is not None and len(self.owned) == count, 30)
        return self

    def read(self, count: int) -> list[Record]:
        """Poll until so many records have come in all."""
        eventually(lambda: self.poll() is not None and len(self.records) >= count, 30)
        assert len(self.records) == count
        return self.records

    def values(self, partition: int = 0) -> list[bytes]:
        return [record.value for record in self.records if record.partition == partition]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.consumer.close()
