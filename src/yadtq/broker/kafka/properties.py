"""What librdkafka is told: the properties of each role, where it logs, and how long it may look for an answer.

One invariant: what a role relies on is laid over the user's properties, what it merely prefers under them.
"""

import logging
from typing import Any

from yadtq.broker.kafka import silence
from yadtq.settings import GroupProtocol

# Only for the client itself; what YADTQ has to say goes to "yadtq".
client_log = logging.getLogger("yadtq.kafka")
# librdkafka speaks of every lost connection; the worker says once a second at most that Kafka does not answer.
client_log.setLevel(logging.CRITICAL)

ANSWER_S = 10.0

CLIENT: dict[str, Any] = {
    "client.id": "yadtq",
    "log.connection.close": "false",
    "reconnect.backoff.max.ms": "1000",
    # New partitions are seen in as many; with the default in 5 minutes. Senders too, or they put keys elsewhere.
    "topic.metadata.refresh.interval.ms": "5000",
}
PRODUCER_PREFERS: dict[str, Any] = {
    "linger.ms": 0,  # batches form by themselves while one is under way; nothing waits for company
}
PRODUCER: dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    "message.timeout.ms": 25_000,
    "message.max.bytes": 4 * 1024 * 1024,  # the topic decides; the client must not refuse a dead letter first
    "partitioner": "murmur2_random",  # the same key goes where Java's producers put it
}
READER: dict[str, Any] = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",  # never latest: tasks sent before the first worker would be skipped
    "fetch.wait.max.ms": 50,
    "fetch.queue.backoff.ms": 10,
    "max.partition.fetch.bytes": 128 * 1024,  # so that no partition comes with thousands of records before the others
}
MEMBER: dict[str, Any] = {
    **READER,
    "enable.auto.offset.store": False,
    "statistics.interval.ms": silence.LOOK_MS,
}


def member(group: str, protocol: GroupProtocol, session_ms: int) -> dict[str, Any]:
    """A member of a group. With `consumer` the session is the broker's, and the client refuses to be given one."""
    if protocol == "consumer":
        return {**MEMBER, "group.id": group, "group.protocol": "consumer", "group.remote.assignor": "uniform"}
    return {
        **MEMBER,
        "group.id": group,
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": min(1_000, session_ms // 3),
    }
