"""The due index in Redis or Valkey: a sorted set and a hash for each partition, moved by scripts.

One invariant: what is waiting is never in the worker's memory but for what is about to fire, however much it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from yadtq.layout import Layout
from yadtq.ledger.due import LOOK_BYTES, Due, Look, Place, Waiting

_encode = msgspec.msgpack.Encoder().encode
_entry = msgspec.msgpack.Decoder(tuple[bytes, dict[str, bytes]]).decode

Scripts = Callable[[Sequence[tuple[str, list[str], list[Any]]]], list[Any]]


class RedisDueIndex:
    """The index beside the ledger, by the ledger's own connection and scripts."""

    def __init__(self, scripts: Scripts, layout: Layout, record_ttl_s: int) -> None:
        self._scripts = scripts
        self._layout = layout
        self._task_key = layout.task("")
        self._oldest_ms = record_ttl_s * 1000

    def places(self, topic: str, partitions: Sequence[int]) -> list[Place]:
        replies = self._scripts([("due_place", self._keys(topic, partition), []) for partition in partitions])
        return [Place(upto, count) for upto, count in replies]

    def put(
        self, topic: str, partition: int, expected: int, upto: int, waiting: Sequence[Waiting], over: Sequence[str]
    ) -> Look:
        layout = self._layout
        rows = [_row(entry) for entry in waiting]
        value = _encode((self._task_key, expected, upto, self._oldest_ms, rows, over))
        blobs = [_blob(entry) for entry in waiting]
        keys = [layout.epoch(topic), *self._keys(topic, partition), layout.read(topic)]
        (reply,) = self._scripts([("due_put", keys, [value, *blobs])])
        return _look(reply)

    def look(self, topic: str, expected: Mapping[int, int], most: int) -> dict[int, Look]:
        epoch = self._layout.epoch(topic)
        replies = self._scripts(
            [
                (
                    "due_look",
                    [epoch, *self._keys(topic, partition)],
                    [_encode((self._task_key, upto, most, LOOK_BYTES))],
                )
                for partition, upto in expected.items()
            ]
        )
        return {partition: _look(reply) for partition, reply in zip(expected, replies, strict=True)}

    def remove(self, topic: str, partition: int, entries: Sequence[tuple[str, int]]) -> None:
        self._scripts([("due_remove", self._keys(topic, partition), [_encode(entries)])])

    def _keys(self, topic: str, partition: int) -> list[str]:
        return [self._layout.due(topic, partition), self._layout.waiting(topic, partition)]


def _row(entry: Waiting) -> tuple[Any, ...]:
    t = entry.task
    where = (t.topic, t.partition, t.offset)
    return (entry.key, t.not_before_ms, entry.generation, t.task_id, t.task_type, *where, t.queued_at_ms, t.tries)


def _blob(entry: Waiting) -> bytes:
    """The offset, for the scripts, and the bytes, which only Python reads: the server's msgpack has no such type."""
    return b"%d:" % entry.offset + _encode((entry.value, dict(entry.headers)))


def _look(reply: Any) -> Look:
    if reply == b"WAIT":
        return Look(closed=True)
    upto, *rest = reply
    if not rest:  # another position than expected
        return Look(upto)
    wait_ms, *entries = rest
    due = [_due(key, entry) for key, entry in zip(entries[::2], entries[1::2], strict=True)]
    return Look(upto, wait_ms if wait_ms >= 0 else None, due)


def _due(key: bytes, entry: bytes) -> Due:
    offset, _, blob = entry.partition(b":")
    if not blob:
        return Due(key.decode(), int(offset), over=True)
    value, headers = _entry(blob)
    return Due(key.decode(), int(offset), False, value, headers)
