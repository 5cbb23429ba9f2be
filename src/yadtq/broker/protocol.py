"""What YADTQ needs of a broker: the port that Kafka and the memory broker both fill.

One invariant: a `Consumer` belongs to one thread; a `Producer` and the `Broker` itself may be used from any.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

from msgspec import Struct

from yadtq.offsets import Position
from yadtq.settings import GroupProtocol, WorkerSettings

NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})
T = TypeVar("T")


class TopicPartition(NamedTuple):
    topic: str
    partition: int


# Structs, because a record, a message and a report are made for every task: 0.06 us each, a frozen dataclass 0.8 us.


class Record(Struct, frozen=True, gc=False):
    """One record as it lies in a partition."""

    topic: str
    partition: int
    offset: int
    value: bytes
    key: bytes | None = None
    headers: Mapping[str, bytes] = NO_HEADERS
    timestamp_ms: int = 0

    @property
    def where(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


class Message(Struct, frozen=True, gc=False):
    """One record to be produced. partition: None lets the key decide, or chance where there is none."""

    topic: str
    value: bytes | None  # None: a tombstone, which a reader gets as no bytes
    key: bytes | None = None
    partition: int | None = None
    headers: Mapping[str, bytes] = NO_HEADERS


class Report(Struct, frozen=True, gc=False):
    """What became of a message. error: None where the broker has it durably; then the rest says where."""

    error: str | None
    partition: int = -1
    offset: int = -1
    refused: bool = False  # the broker will never take it: too large, unknown topic
    too_large: bool = False  # and a smaller one would be taken


OnReport = Callable[[Report], None]
Start = Callable[[Sequence[TopicPartition]], Mapping[TopicPartition, int]]
OnReports = Callable[[list[tuple[T, Report]]], None]


class Producer(Protocol):
    """Sends messages with acks=all and idempotence. Thread-safe."""

    def produce(self, message: Message, on_report: OnReport) -> None:
        """Send; `on_report` is called exactly once, on another thread or at once. It must be quick and send nothing."""

    def produce_batch(self, messages: Sequence[Message], tags: Sequence[T], on_reports: OnReports[T]) -> None:
        """Send many, each known by its tag; its report comes with the tag, once.

        `on_reports` gets them in lists: what came at the same time, of this call and of others with the same
        `on_reports`, in no order, on another thread or at once. It must be quick and send nothing.

        Cost on Kafka: 1.2 us of this thread a message, 3 us of CPU in all with its report; with `produce` 4 and 7 us.
        """

    def close(self, timeout_s: float) -> int:
        """Wait for what is under way; return how many messages are still without a report."""


class Flight:
    """Messages under way together, and their reports as they come."""

    __slots__ = ("_landed", "_seen", "failed", "reports")

    def __init__(self, count: int) -> None:
        self.reports: list[Report | None] = [None] * count  # by the place of the message
        self.failed = False  # one of the reports is an error
        self._landed: list[int] = []  # places, as they came
        self._seen = 0

    def land(self, at: int, report: Report) -> None:
        """What became of one message."""
        self.reports[at] = report
        if report.error is not None:
            self.failed = True
        self._landed.append(at)

    @property
    def landed(self) -> bool:
        """Whether all have a report."""
        return len(self._landed) == len(self.reports)

    @property
    def unseen(self) -> bool:
        """Whether there are some that `fresh` has not named yet."""
        return self._seen < len(self.reports)

    def has(self, enough: int | None) -> bool:
        """Whether all have a report, or so many that nobody has seen."""
        return self.landed or (enough is not None and len(self._landed) - self._seen >= enough)

    def fresh(self) -> list[int]:
        """The places of those that have got a report since this was last asked."""
        found = self._landed[self._seen :]
        self._seen += len(found)
        return found


class Sender(Protocol):
    """Sends messages like a producer, for threads that wait for the reports. Each asks for its own flight."""

    def send(self, messages: Sequence[Message]) -> Flight:
        """Send; the reports come to those who wait. What goes to one partition goes in this order."""

    def wait(self, flight: Flight, timeout_s: float, enough: int | None = None) -> list[int]:
        """Wait until all messages have their report, or `enough` have one that was not returned before, or time is up.

        Returns:
            The places of those that have got a report since the last call.
        """

    def close(self, timeout_s: float) -> int:
        """Wait for what is under way; return how many messages are still without a report."""


class Listener(Protocol):
    """Told of assignment changes, on the consumer's thread, inside `poll` or `close`."""

    def assigned(self, partitions: Mapping[TopicPartition, Position]) -> None:
        """These are ours now, each from its committed position.

        Where the group has committed nothing, or could not be asked, or `start` gave the offset, the position says
        `committed=False`, with no metadata, and offset 0 or that of `start`.
        """

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """These move on now; commits for them are still accepted until this returns."""

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        """These are gone already; commits are refused."""

    def committed(self, positions: Mapping[TopicPartition, Position], error: str | None) -> None:
        """The broker answered a commit; error: None where it took it."""

    def answered(self) -> None:
        """The broker answers again, after `poll` had raised BrokerUnavailable."""


class Consumer(Protocol):
    """A member of a consumer group on one topic. One thread owns it."""

    def poll(self, timeout_s: float, most: int) -> list[Record]:
        """Return at most `most` records, waiting for the first one only. Raises BrokerUnavailable."""

    def pause(self, partitions: Iterable[TopicPartition]) -> None: ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None: ...

    def seek(self, where: TopicPartition, offset: int) -> None:
        """Go on from another offset; at any time after `assigned`, also inside it. Nothing else than a later poll
        returns the record there. What is not assigned stays as it is. A partition that rests goes on resting."""

    def commit(self, positions: Mapping[TopicPartition, Position], *, wait: bool) -> None:
        """Commit. The listener's `committed` hears the answer: before this returns with `wait`, else in a later poll.

        What is not assigned to this member is refused here and never reaches the broker.
        """

    def close(self) -> None:
        """Leave the group; the listener hears `revoked` first."""


class Reader(Protocol):
    """Reads whole topics from given offsets without a group. One thread owns it."""

    def poll(self, timeout_s: float, most: int) -> list[Record]: ...

    def watch(self, starts: Mapping[TopicPartition, int]) -> None:
        """Read these partitions too, each from its offset."""

    def close(self) -> None: ...


class Broker(Protocol):
    """Makes producers, consumers and readers, and answers questions about topics."""

    def producer(self) -> Producer: ...

    def sender(self) -> Sender: ...

    def consumer(
        self,
        topic: str,
        group: str,
        listener: Listener,
        session_ms: int,
        *,
        protocol: GroupProtocol = "classic",
        start: Start | None = None,
    ) -> Consumer:
        """Join a group.

        Args:
            session_ms: How long this member may be silent; with the protocol `consumer` the broker decides that.
            start: Asked on the consumer's thread, inside `poll`, where newly assigned partitions begin; those that it
                leaves out begin where the group has committed. What it raises comes out of `poll`, now and at every
                later one: the consumer serves nothing from where nobody wanted, and can only be closed.
        """

    def reader(self) -> Reader: ...

    def partitions(self) -> dict[str, int]:
        """Return the number of partitions of each topic. Raises BrokerUnavailable."""

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str]) -> bool:
        """Create a topic; False: it existed. Either way it can be used now. Raises BrokerUnavailable."""

    def grow_topic(self, name: str, partitions: int) -> int:
        """Give a topic so many partitions; one that has as many or more stays as it is. Return how many it has then.

        Keys move: the same key goes to another partition than before. Raises BrokerUnavailable.
        """

    def end_offsets(self, topic: str) -> dict[TopicPartition, tuple[int, int]]:
        """Return for each partition the first offset and the one behind the last. Raises BrokerUnavailable."""

    def committed(self, topic: str, group: str) -> dict[TopicPartition, Position]:
        """Return what the group has committed, for partitions where it has. Raises BrokerUnavailable."""

    def recovery_ms(self, group: str, protocol: GroupProtocol, session_ms: int) -> int | None:
        """Return after how long at most a silent member's partitions move; None where the broker does not say.

        Raises:
            SettingsError: The broker would not take a member with this session.
            BrokerUnavailable: It does not answer.
        """

    def close(self) -> None: ...


def ensure_topic(broker: Broker, name: str, partitions: int, config: Mapping[str, str]) -> int:
    """Create a topic if it is missing; return how many partitions it really has."""
    return partitions if broker.create_topic(name, partitions, config) else broker.partitions()[name]


@contextmanager
def membership(
    broker: Broker, topic: str, group: str, listener: Listener, settings: WorkerSettings
) -> Iterator[Consumer]:
    """A worker's place in a group, for as long as this lasts; leaving tells the listener."""
    consumer = broker.consumer(topic, group, listener, settings.session_ms, protocol=settings.group_protocol)
    try:
        yield consumer
    finally:
        consumer.close()
