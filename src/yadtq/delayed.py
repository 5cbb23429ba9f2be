"""Envelopes that wait for a time, as records of `Q.delayed`.

One invariant: the key is the task id with the generation, never the id alone: else the tombstone of one firing erases
the retry that was scheduled after it (T1).
"""

from yadtq.broker import Message, Record
from yadtq.codec import Undecodable, decode, encode
from yadtq.envelope import Envelope
from yadtq.layout import HEADER_KEY, QueueTopics
from yadtq.ledger import NewTask, Waiting


def delayed(envelope: Envelope, record_key: bytes | None, headers: dict[str, bytes], topics: QueueTopics) -> Message:
    """The record that waits; what its record in `Q` will have as key and headers travels in the headers."""
    kept = {**headers, HEADER_KEY: record_key} if record_key is not None else headers
    return Message(topics.delayed, encode(envelope), key_of(envelope.task_id, envelope.generation), headers=kept)


def due(record: Record, topics: QueueTopics, partition: int | None) -> Message:
    """The record in `Q` that a waiting one becomes. partition: where it goes if it has no ordering key."""
    headers = dict(record.headers)
    record_key = headers.pop(HEADER_KEY, None)
    return Message(topics.tasks, record.value, record_key, partition if record_key is None else None, headers)


def entry_of(record: Record, topics: QueueTopics) -> Waiting:
    """A waiting record as the index has it. Raises Undecodable."""
    envelope, key = decode(record.value), record.key or b""
    if key != key_of(envelope.task_id, envelope.generation):
        raise Undecodable(record.value, f"the key {key.decode(errors='replace')[:100]!r} is not that of the envelope")
    task = NewTask(
        envelope.task_id,
        envelope.task_type,
        topics.tasks,
        -1,  # it lies in no partition of Q yet
        -1,
        envelope.queued_at_ms or record.timestamp_ms,
        envelope.task_tries,
        envelope.not_before_ms,
    )
    return Waiting(key.decode(), task, envelope.generation, record.value, record.headers, record.offset)


def tombstone(key: bytes, partition: int, topics: QueueTopics) -> Message:
    """What says that a waiting record is over."""
    return Message(topics.delayed, None, key, partition)


def key_of(task_id: str, generation: int) -> bytes:
    """The key of a waiting record."""
    return f"{generation}:{task_id}".encode()


def read_key(key: bytes) -> tuple[str, int]:
    """The task id and generation of a key. Raises ValueError where it is none of ours."""
    generation, colon, task_id = key.decode().partition(":")
    if not colon or not generation.isdecimal():
        raise ValueError(f"{key!r} is not the key of a waiting record")
    return task_id, int(generation)


def is_key(key: bytes) -> bool:
    """Whether this can be the key of a waiting record."""
    try:
        read_key(key)
    except ValueError:  # also bytes that are no text
        return False
    return True
