"""The due index: what waits in `Q.delayed`, by the time at which it is due. The port that Redis and memory fill.

One invariant: entries and position move together, in one atomic move: what lies below `upto` is in the index unless it
has fired or was taken back. So whoever serves a partition next reads on from there, and an index that was lost says 0
and is read again from the start. It is a cache: Kafka has everything that it holds. Times are the ledger's own clock.
Everything raises LedgerUnavailable where the store does not answer.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from yadtq.ledger.protocol import NewTask

LOOK_BYTES = 1 << 20  # one answer carries no more, but for one entry that is larger by itself


class Waiting(NamedTuple):
    """An entry. task.not_before_ms is when it is due."""

    key: str
    task: NewTask  # for the SCHEDULED record of a task that has none
    generation: int
    value: bytes
    headers: Mapping[str, bytes]
    offset: int  # where it lies in its partition of `Q.delayed`


class Due(NamedTuple):
    """An entry whose time has come."""

    key: str
    offset: int
    over: bool  # T1: its task is sealed or its generation has passed: not to be fired
    value: bytes = b""
    headers: Mapping[str, bytes] = {}


class Place(NamedTuple):
    """How far the index of a partition goes."""

    upto: int  # the next offset of `Q.delayed` to read; 0 where there is no index
    waits: int  # how many entries


class Look(Struct, frozen=True):
    """The answer about one partition."""

    upto: int = -1  # another one than expected: nothing was done; read on from there
    wait_ms: int | None = None  # until the next entry is due, 0: there are more now; None: there is no other
    due: Sequence[Due] = ()
    closed: bool = False  # R2: the ledger has no epoch for this queue: nothing was done


class DueIndex(Protocol):
    """The index of all queues. Thread-safe. topic: the queue's tasks; partition: one of `Q.delayed`."""

    def places(self, topic: str, partitions: Sequence[int]) -> list[Place]:
        """Return how far the index goes, of each partition."""

    def put(
        self, topic: str, partition: int, expected: int, upto: int, waiting: Sequence[Waiting], over: Sequence[str]
    ) -> Look:
        """Take entries in and out and move the position, if it is the expected one.

        A task without a record gets a SCHEDULED one, unless it may have ended so long ago that its record is forgotten
        (C8); one that has a record keeps it. What is taken out because its tombstone came has been fired: where its
        task is SCHEDULED for that very generation it is QUEUED from now on.
        """

    def look(self, topic: str, expected: Mapping[int, int], most: int) -> dict[int, Look]:
        """Return what is due in these partitions, at most so many of each, the oldest first.

        expected: The position of each partition; where it is another one, the answer says so and nothing else.
        """

    def remove(self, topic: str, partition: int, entries: Sequence[tuple[str, int]]) -> None:
        """Take out entries whose firing is over, each by key and offset.

        What was written again under its key meanwhile lies elsewhere and stays: its tombstone is still to come.
        """
