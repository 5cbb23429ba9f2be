"""Every topic, consumer group, Redis key and time to live, in one place.

One invariant: no other module spells a name that is kept in Kafka or Redis.
"""

import re

from msgspec import Struct

from yadtq.errors import SettingsError

RUN_TTL_S = 7 * 86_400
LOCK_MS = 15_000
BARRIER_MS = 120_000
DEFAULT_PARTITIONS = 8
QUEUE_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")


class QueueTopics(Struct, frozen=True):
    """The topics of one queue."""

    tasks: str  # envelopes; key: ordering key or none
    outcomes: str  # accepted outcomes; key: task id; not compacted, or earlier attempts would be erased
    dead: str  # dead letters with their bytes; key: task id
    delayed: str  # envelopes that wait for a time; key: task id and generation; compacted, a tombstone when fired

    @classmethod
    def of(cls, tasks: str) -> "QueueTopics":
        """The topics of the queue whose tasks lie here."""
        return cls(tasks, tasks + OUTCOMES, tasks + DEAD, tasks + DELAYED)

    @property
    def all(self) -> tuple[str, str, str, str]:
        return (self.tasks, self.outcomes, self.dead, self.delayed)


class Layout(Struct, frozen=True):
    """Names under one prefix, so that environments can share a cluster."""

    prefix: str = ""

    def queue(self, name: str) -> QueueTopics:
        """The topics of queue `name`.

        Raises:
            SettingsError: Kafka would not take the name.
        """
        if not QUEUE_NAME.fullmatch(name) or name in (".", ".."):
            raise SettingsError(f"a queue's name has 1 to 200 of the characters A-Z a-z 0-9 . _ -, not {name!r}")
        if name.endswith((OUTCOMES, DEAD, DELAYED)):
            raise SettingsError(f"a queue's name does not end in {OUTCOMES}, {DEAD} or {DELAYED}: {name!r}")
        return QueueTopics.of(self.prefix + name)

    def group(self, name: str) -> str:
        """A consumer group."""
        return self.prefix + name

    def delayed_group(self, name: str) -> str:
        """The consumer group that reads `Q.delayed`, beside the group of this name that reads `Q`."""
        return self.prefix + name + DELAYED

    def queues(self, topics: set[str]) -> list[str]:
        """The queues among the topics of a cluster: what has an outcomes topic beside it."""
        found = (topic.removesuffix(OUTCOMES) for topic in topics if topic.endswith(OUTCOMES))
        return sorted(
            base.removeprefix(self.prefix) for base in found if base in topics and base.startswith(self.prefix)
        )

    def task(self, task_id: str) -> str:
        """A hash: the record of one task. TTL: Settings.record_ttl_s once it is sealed, none before."""
        return f"{self.prefix}yadtq:task:{task_id}"

    @property
    def heartbeats(self) -> str:
        """A hash, one field a worker name. Capped: a worker that starts drops those that were DEAD for a day."""
        return f"{self.prefix}all_heartbeats"

    def epoch(self, topic: str) -> str:
        """A string: which life of the ledger this is for a queue. No TTL; missing means that Redis was wiped."""
        return f"{self.prefix}yadtq:epoch:{topic}"

    def read(self, topic: str) -> str:
        """A string: the outcomes of this queue were read into the ledger. TTL: at most half of
        Settings.record_ttl_s, and no longer than all of them are there."""
        return f"{self.prefix}yadtq:read:{topic}"

    def writes(self, topic: str) -> str:
        """A hash, one field a worker name: how many of its calls this life has answered. No TTL; emptied with each
        opening. Where it says less than the worker has seen, writes were lost."""
        return f"{self.prefix}yadtq:writes:{topic}"

    def barrier(self, topic: str) -> str:
        """A hash: since when a ledger without an epoch waits to be read in. TTL: BARRIER_MS after the last question."""
        return f"{self.prefix}yadtq:barrier:{topic}"

    def lock(self, topic: str) -> str:
        """A hash: who reads the outcomes of this queue in. TTL: LOCK_MS, renewed with every batch."""
        return f"{self.prefix}yadtq:lock:{topic}"

    def due(self, topic: str, partition: int) -> str:
        """A sorted set: when what waits in a partition of `Q.delayed` is due. No TTL; holds what has not fired."""
        return f"{self.prefix}yadtq:due:{topic}:{partition}"

    def waiting(self, topic: str, partition: int) -> str:
        """A hash: what waits there, by key, and `upto`, where to read on. No TTL; holds what has not fired."""
        return f"{self.prefix}yadtq:waiting:{topic}:{partition}"

    @property
    def sealed(self) -> str:
        """A channel: the ids of tasks as they become final, joined by newlines."""
        return f"{self.prefix}yadtq:sealed"

    @property
    def runs(self) -> str:
        """A hash, one field a topic: the runs of the original command lines. TTL: RUN_TTL_S after the last change."""
        return f"{self.prefix}yadtq:runs"


OUTCOMES = ".outcomes"
DEAD = ".dlq"
DELAYED = ".delayed"

# Kafka record headers
HEADER_REASON = "yadtq-reason"
HEADER_SOURCE = "yadtq-source"
HEADER_TASK = "yadtq-task"
HEADER_KEY = "yadtq-key"  # the ordering key of the record in `Q`: of a dead letter, and of what lies in `Q.delayed`
HEADER_REPLAYED = "yadtq-replayed"  # on a record of `Q.dlq` that is no dead letter: the task that one was replayed as
HEADER_MARKER = "yadtq-marker"  # on a record of `Q.outcomes` that is no outcome: a new life of the ledger began
HEADER_SHA256 = "yadtq-sha256"  # of the bytes, where a dead letter is too large to be a copy

TASKS_CONFIG = {"cleanup.policy": "delete", "retention.ms": "-1"}
OUTCOMES_CONFIG = {"cleanup.policy": "delete", "retention.ms": "-1"}
# A segment is compacted only when it is closed: small and young ones, so that what has fired does not pile up.
DELAYED_CONFIG = {
    "cleanup.policy": "compact",
    "retention.ms": "-1",
    "segment.ms": "3600000",
    "segment.bytes": str(64 * 1024 * 1024),
    "delete.retention.ms": "86400000",
}
DEAD_CONFIG = {"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": str(2 * 1024 * 1024)}
