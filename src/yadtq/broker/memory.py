"""A broker in memory, with groups, committed metadata and the same refusals as Kafka: for tests of everything above.

One invariant: it never does what Kafka would not do; the contract suite runs on both. It dies with the process.
"""

import threading
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence

from yadtq.broker.protocol import (
    Flight,
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
from yadtq.errors import BrokerUnavailable
from yadtq.offsets import Position
from yadtq.settings import GroupProtocol


class MemoryBroker:
    """Topics, groups and commits. Set `down` to make every call fail as if the broker were gone."""

    def __init__(self, max_message_bytes: int = 1024 * 1024) -> None:
        self.lock = threading.Condition()
        self.down = False
        self.max_message_bytes = max_message_bytes
        self.logs: dict[str, list[list[Record]]] = {}
        self.configs: dict[str, Mapping[str, str]] = {}
        self.offsets: dict[tuple[str, TopicPartition], Position] = {}
        self.members: dict[tuple[str, str], list[MemoryConsumer]] = {}
        self._turn = 0

    def check(self) -> None:
        if self.down:
            raise BrokerUnavailable("the memory broker is down")

    def producer(self) -> "MemoryProducer":
        return MemoryProducer(self)

    def sender(self) -> "MemorySender":
        return MemorySender(self)

    def consumer(
        self,
        topic: str,
        group: str,
        listener: Listener,
        session_ms: int,  # noqa: ARG002 - nobody falls silent here
        *,
        protocol: GroupProtocol = "classic",  # noqa: ARG002 - one way to deal out partitions
        start: Start | None = None,
    ) -> "MemoryConsumer":
        return MemoryConsumer(self, topic, group, listener, start)

    def reader(self) -> "MemoryReader":
        return MemoryReader(self)

    def partitions(self) -> dict[str, int]:
        self.check()
        return {topic: len(logs) for topic, logs in self.logs.items()}

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str]) -> bool:
        self.check()
        with self.lock:
            if name in self.logs:
                return False
            self.logs[name] = [[] for _ in range(partitions)]
            self.configs[name] = config
            self.lock.notify_all()
            return True

    def grow_topic(self, name: str, partitions: int) -> int:
        self.check()
        with self.lock:
            if name not in self.logs:
                raise BrokerUnavailable(f"the memory broker has no topic {name!r}")
            self.logs[name] += [[] for _ in range(partitions - len(self.logs[name]))]
            self.lock.notify_all()
            return len(self.logs[name])

    def end_offsets(self, topic: str) -> dict[TopicPartition, tuple[int, int]]:
        self.check()
        return {TopicPartition(topic, at): (0, len(log)) for at, log in enumerate(self.logs.get(topic, []))}

    def committed(self, topic: str, group: str) -> dict[TopicPartition, Position]:
        self.check()
        return {where: at for (owner, where), at in self.offsets.items() if owner == group and where.topic == topic}

    def recovery_ms(self, group: str, protocol: GroupProtocol, session_ms: int) -> int | None:  # noqa: ARG002
        self.check()
        return session_ms if protocol == "classic" else None

    def close(self) -> None:
        """Nothing to close."""

    def append(self, message: Message) -> Report:
        """Put a message behind the others of its partition."""
        with self.lock:
            logs = self.logs.get(message.topic)
            limit = int(self.configs.get(message.topic, {}).get("max.message.bytes", self.max_message_bytes))
            if self.down:
                return Report("the memory broker is down")
            if logs is None:
                return Report(f"unknown topic {message.topic!r}", refused=True)
            value = message.value or b""
            if len(value) > limit:
                return Report(f"{len(value)} bytes and the limit is {limit}", refused=True, too_large=True)
            partition = self._place(message, len(logs))
            if partition >= len(logs):
                return Report(f"unknown partition {partition} of topic {message.topic!r}", refused=True)
            offset = len(logs[partition])
            record = Record(
                message.topic,
                partition,
                offset,
                value,
                message.key,
                dict(message.headers),
                time.time_ns() // 1_000_000,
            )
            logs[partition].append(record)
            self.lock.notify_all()
            return Report(None, partition, offset)

    def _place(self, message: Message, count: int) -> int:
        if message.partition is not None:
            return message.partition
        if message.key is not None:
            return zlib.crc32(message.key) % count
        self._turn += 1
        return self._turn % count

    def share(self, topic: str, group: str) -> dict["MemoryConsumer", list[TopicPartition]]:
        """Who should have what: partitions dealt in turn to the members in the order they joined."""
        members = self.members.get((topic, group), [])
        shares: dict[MemoryConsumer, list[TopicPartition]] = {member: [] for member in members}
        for at in range(len(self.logs.get(topic, []))):
            if members:
                shares[members[at % len(members)]].append(TopicPartition(topic, at))
        return shares

    def owned_by_others(self, asking: "MemoryConsumer") -> set[TopicPartition]:
        members = self.members.get((asking.topic, asking.group), [])
        return {where for member in members if member is not asking for where in member.positions}


class MemoryProducer:
    """Reports at once, on the calling thread."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def produce(self, message: Message, on_report: OnReport) -> None:
        on_report(self._broker.append(message))

    def produce_batch(self, messages: Sequence[Message], tags: Sequence[T], on_reports: OnReports[T]) -> None:
        on_reports([(tag, self._broker.append(message)) for message, tag in zip(messages, tags, strict=True)])

    def close(self, timeout_s: float) -> int:  # noqa: ARG002 - nothing is ever under way
        return 0


class MemorySender:
    """Has all reports at once."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def send(self, messages: Sequence[Message]) -> Flight:
        flight = Flight(len(messages))
        for at, message in enumerate(messages):
            flight.land(at, self._broker.append(message))
        return flight

    def wait(self, flight: Flight, timeout_s: float, enough: int | None = None) -> list[int]:  # noqa: ARG002
        return flight.fresh()

    def close(self, timeout_s: float) -> int:  # noqa: ARG002 - nothing is ever under way
        return 0


class _Log:
    """Positions in partitions, and the records behind them."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.positions: dict[TopicPartition, int] = {}
        self._broker = broker
        self._paused: set[TopicPartition] = set()

    def poll(self, timeout_s: float, most: int) -> list[Record]:
        self._broker.check()
        with self._broker.lock:
            records = self._fetch(most)
            if not records and timeout_s > 0:
                self._broker.lock.wait(timeout_s)
                records = self._fetch(most)
            return records

    def _fetch(self, most: int) -> list[Record]:
        records: list[Record] = []
        for where, position in self.positions.items():
            if where not in self._paused:
                log = self._broker.logs[where.topic][where.partition]
                taken = log[position : position + most - len(records)]
                self.positions[where] = position + len(taken)
                records += taken
        return records


class MemoryConsumer(_Log):
    """A member of a group. Partitions move cooperatively: given up at a poll, taken at a later one."""

    def __init__(
        self, broker: MemoryBroker, topic: str, group: str, listener: Listener, start: Start | None = None
    ) -> None:
        super().__init__(broker)
        self.topic = topic
        self.group = group
        self._listener = listener
        self._start = start
        self._expelled = False
        self._refused = False  # a poll, and none has been answered since
        self._failure: Exception | None = None  # of `start`
        with broker.lock:
            broker.members.setdefault((topic, group), []).append(self)

    def poll(self, timeout_s: float, most: int) -> list[Record]:
        refused, self._refused = self._refused, True
        self._broker.check()
        self._refused = False
        if self._failure is not None:
            raise self._failure
        if refused:
            self._listener.answered()
        self._rebalance()
        return super().poll(timeout_s, most)

    def _rebalance(self) -> None:
        if self._expelled:
            self._expelled = False
            gone, self.positions = list(self.positions), {}
            self._paused.clear()
            self._listener.lost(gone)
            with self._broker.lock:
                self._broker.members.setdefault((self.topic, self.group), []).append(self)
        with self._broker.lock:
            mine = set(self._broker.share(self.topic, self.group).get(self, []))
            leaving = [where for where in self.positions if where not in mine]
        self._give_up(leaving)
        with self._broker.lock:
            taken = mine - self.positions.keys() - self._broker.owned_by_others(self)
            nothing = Position(0, "", committed=False)
            found = {where: self._broker.offsets.get((self.group, where), nothing) for where in sorted(taken)}
        starts = self._ask(list(found)) if found else {}
        found |= {where: Position(starts[where], "", committed=False) for where in found if where in starts}
        with self._broker.lock:
            self.positions |= {where: position.offset for where, position in found.items()}
            self._broker.lock.notify_all()
        if found:
            self._listener.assigned(found)

    def _ask(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        try:
            return self._start(partitions) if self._start is not None else {}
        except Exception as error:
            self._failure = error
            raise

    def _give_up(self, leaving: Sequence[TopicPartition]) -> None:
        if leaving:
            self._listener.revoked(leaving)
        for where in leaving:
            del self.positions[where]
            self._paused.discard(where)

    def expel(self) -> None:
        """What a session that ran out does: the group goes on without this member, which hears of it at a poll."""
        with self._broker.lock:
            self._broker.members[self.topic, self.group].remove(self)
            self._expelled = True
            self._broker.lock.notify_all()

    def seek(self, where: TopicPartition, offset: int) -> None:
        if where in self.positions:
            self.positions[where] = offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused |= set(partitions) & self.positions.keys()

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused -= set(partitions)

    def commit(self, positions: Mapping[TopicPartition, Position], *, wait: bool) -> None:  # noqa: ARG002
        mine = {where: at for where, at in positions.items() if where in self.positions and not self._expelled}
        strangers = {where: at for where, at in positions.items() if where not in mine}
        if strangers:
            self._listener.committed(strangers, f"not assigned to this member: {sorted(strangers)}")
        if mine and self._broker.down:
            self._listener.committed(mine, "the memory broker is down")
        elif mine:
            with self._broker.lock:
                self._broker.offsets |= {(self.group, where): position for where, position in mine.items()}
            self._listener.committed(mine, None)

    def close(self) -> None:
        self._give_up(list(self.positions))
        with self._broker.lock:
            members = self._broker.members[self.topic, self.group]
            if self in members:
                members.remove(self)
            self._broker.lock.notify_all()


class MemoryReader(_Log):
    """Reads whole topics."""

    def watch(self, starts: Mapping[TopicPartition, int]) -> None:
        self.positions |= {where: at for where, at in starts.items() if where not in self.positions}

    def close(self) -> None:
        self.positions.clear()
