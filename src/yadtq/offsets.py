"""Which offsets of one partition may be committed when its records finish in any order.

One invariant: `position` never passes a record that was opened and not closed. What is finished above it travels with
the commit as a bitmap in the metadata, so that the next owner skips it. Gaps in the offsets are normal (Kafka leaves
them for transactions and deleted records) and hold up nothing.

When the process dies, what was closed since the last commit is read again; the ledger knows that it is settled.
"""

import base64
import zlib
from collections import deque

from msgspec import Struct

# 16,384 bits are 2,560 characters of base85; brokers take 4,096 (offset.metadata.max.bytes).
SPAN = 16_384
_MARK = "b1:"


class Position(Struct, frozen=True):
    """What to commit: everything below `offset` is finished, and what `metadata` says above it."""

    offset: int
    metadata: str
    committed: bool = True  # False: the group never committed here, or could not be asked; the offset is a start


class Tracker:
    """The finished and unfinished records of one partition, for one assignment."""

    def __init__(self, metadata: str = "", base: int = 0) -> None:
        """Start from what the last owner committed: offset `base` with this metadata."""
        self._finished_before = read_bitmap(metadata, base)
        self._order: deque[int] = deque()  # opened, ascending, not yet below the position
        self._open: set[int] = set()  # of those, the unfinished ones
        self._next: int | None = None  # behind the last record seen
        self._committed: Position | None = None

    def open(self, offset: int) -> bool:
        """Note that a record arrived. False: an earlier owner finished it, or it is here already; do not run it."""
        if self._next is not None and offset < self._next:
            return False
        self._next = offset + 1
        self._order.append(offset)
        if offset in self._finished_before:
            self._finished_before.discard(offset)
            self._trim()
            return False
        self._open.add(offset)
        return True

    def close(self, offset: int) -> None:
        """Note that the fate of an opened record is durable.

        Raises:
            ValueError: The record is not open: it would be a commit past something that nobody finished.
        """
        if offset not in self._open:
            raise ValueError(f"offset {offset} is not open")
        self._open.discard(offset)
        self._trim()

    def _trim(self) -> None:
        while self._order and self._order[0] not in self._open:
            self._order.popleft()

    @property
    def unfinished(self) -> int:
        """How many opened records are not closed."""
        return len(self._open)

    @property
    def head(self) -> int | None:
        """The lowest unfinished record; None where there is none."""
        return self._order[0] if self._order else None

    @property
    def span(self) -> int:
        """From the lowest unfinished record to the highest seen; above SPAN nothing more may be taken in."""
        return self._next - self._order[0] if self._order and self._next is not None else 0

    def committable(self) -> Position | None:
        """What should be committed now, or None where that is committed already."""
        if self._next is None:
            return None
        base = self._order[0] if self._order else self._next
        ahead = {offset for offset in self._order if offset not in self._open}
        ahead |= {offset for offset in self._finished_before if offset >= base}
        position = Position(base, write_bitmap(ahead, base))
        return None if position == self._committed else position

    def committed(self, position: Position) -> None:
        """Note that Kafka has it."""
        self._committed = position


def lag(first: int, end: int, position: Position | None) -> int:
    """How many records of a partition from `first` to before `end` are not finished, by what is committed."""
    if position is None:
        return end - first
    return max(end - max(position.offset, first) - len(read_bitmap(position.metadata, position.offset)), 0)


def write_bitmap(finished: set[int], base: int) -> str:
    """Write the finished offsets above `base`; those further than SPAN are left out and would be read again."""
    bits = sum(1 << offset - base for offset in finished if 0 <= offset - base < SPAN)
    if not bits:
        return ""
    raw = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    check = zlib.crc32(raw).to_bytes(4, "little")
    return _MARK + base64.b85encode(check + raw).decode()


def read_bitmap(metadata: str, base: int) -> set[int]:
    """Read the finished offsets above `base`. Somebody else's metadata, or a damaged one, says nothing."""
    if not metadata.startswith(_MARK):
        return set()
    try:
        data = base64.b85decode(metadata.removeprefix(_MARK))
    except ValueError:
        return set()
    check, raw = data[:4], data[4:]
    if zlib.crc32(raw).to_bytes(4, "little") != check or len(raw) > SPAN // 8:
        return set()
    bits = int.from_bytes(raw, "little")
    return {base + at for at in range(bits.bit_length()) if bits >> at & 1}
