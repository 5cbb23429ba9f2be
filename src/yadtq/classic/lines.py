"""The lines of the producer's input, as they come and in batches.

One invariant: every line is yielded once, in order, with its number; one that is too long is yielded without its data
and is never held in memory. It reads the descriptor itself: a thread that waits inside a buffered `sys.stdin` makes the
interpreter abort when it exits.
"""

import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

LINE_BYTES = 1024 * 1024
BATCH = 500
END = b"end"
BOM = b"\xef\xbb\xbf"  # how some editors begin a file in UTF-8


@dataclass(frozen=True, slots=True)
class Line:
    """A numbered line, from 1. data: None where it is longer than LINE_BYTES."""

    number: int
    data: bytes | None


def batches(fd: int) -> Iterator[tuple[list[Line], bool]]:
    """Yield what has come, at most BATCH lines, and whether `end` came behind it; nothing is read after `end`."""
    arrived: queue.Queue[Line | None] = queue.Queue(maxsize=2 * BATCH)
    threading.Thread(target=_read_ahead, args=(fd, arrived), name="yadtq-lines", daemon=True).start()
    while (line := arrived.get()) is not None:
        batch = [line]
        while len(batch) < BATCH and not arrived.empty() and not _is_end(batch[-1]):
            following = arrived.get()
            if following is None:
                yield batch, False
                return
            batch.append(following)
        if _is_end(batch[-1]):
            yield batch[:-1], True
            return
        yield batch, False


def read_lines(fd: int) -> Iterator[Line]:
    """Yield the lines of a descriptor; empty ones are counted and left out."""
    number, rest, too_long = 0, b"", False
    while chunk := os.read(fd, 65_536):
        *whole, rest = (rest + chunk).split(b"\n")
        for data in whole:
            number += 1
            data = data.removeprefix(BOM) if number == 1 else data
            if too_long or len(data) > LINE_BYTES:
                yield Line(number, None)
            elif data.strip():
                yield Line(number, data)
            too_long = False
        if len(rest) > LINE_BYTES:
            rest, too_long = b"", True
    rest = rest.removeprefix(BOM) if number == 0 else rest
    if rest.strip() or too_long:
        yield Line(number + 1, None if too_long else rest)


def _is_end(line: Line) -> bool:
    return line.data is not None and line.data.strip() == END


def _read_ahead(fd: int, arrived: "queue.Queue[Line | None]") -> None:
    for line in read_lines(fd):
        arrived.put(line)
        if _is_end(line):
            return
    arrived.put(None)
