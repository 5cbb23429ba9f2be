"""What a pool and its children say to each other, and how it is cut into frames.

A frame is a length (`<I`) and one msgpack value; it carries many attempts or outcomes. Arguments and results travel
inside as the JSON bytes that they are. One invariant: a frame is read whole or not at all, so when a process dies in
the middle of one, what it carried counts as never said.
"""

import socket
from collections.abc import Iterator

import msgspec

from yadtq import errors
from yadtq.attempt import Attempt, Outcome
from yadtq.catalogue import Rules
from yadtq.errors import YadtqError
from yadtq.task import Call

LENGTH_BYTES = 4
FRAME_BYTES = 1 << 20  # about as much goes into one frame; one value more may make it longer
BUFFER_BYTES = 1 << 18

FactValue = str | int | float | None | tuple[str, ...]


class Job(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An attempt, the seat in which the child notes its start, and the number of the lease under which it may start."""

    seat: int
    number: int
    task_id: str
    task_type: str
    args: bytes
    kwargs: bytes
    attempt: int
    fence: str
    lease: int

    def to_attempt(self) -> Attempt:
        return Attempt(self.number, self.task_id, self.task_type, self.args, self.kwargs, self.attempt, self.fence)


class Jobs(msgspec.Struct, array_like=True, tag=1):
    """To a child: run these."""

    jobs: list[Job]


class Recall(msgspec.Struct, array_like=True, tag=2):
    """To a child: give back those of these that have not started."""

    numbers: list[int]


class Hello(msgspec.Struct, array_like=True, tag=3):
    """From a child: the app is imported, jobs may come for these tasks."""

    tasks: list[Rules]


class Broken(msgspec.Struct, array_like=True, tag=4):
    """From a child: the app cannot be imported."""

    error_log: str


class Finished(msgspec.Struct, array_like=True, tag=5):
    """From a child: these ended."""

    outcomes: list[Outcome]


class Returned(msgspec.Struct, array_like=True, tag=6):
    """From a child: these had not started and will not."""

    numbers: list[int]


class Submit(msgspec.Struct, array_like=True, tag=7):
    """From a child: publish these in the name of an attempt."""

    request: int
    number: int
    task_id: str
    attempt: int
    calls: list[Call]


class Failure(msgspec.Struct, array_like=True):
    """An error, as far as it can be told in another process."""

    kind: str
    text: str
    facts: dict[str, FactValue]


class Submitted(msgspec.Struct, array_like=True, tag=8):
    """To a child: these are published, or why they are not."""

    request: int
    ids: list[str]
    failure: Failure | None = None


class Ping(msgspec.Struct, array_like=True, tag=9):
    """To a child: say something."""


class Pong(msgspec.Struct, array_like=True, tag=10):
    """From a child: its reader lives."""


ToChild = Jobs | Recall | Submitted | Ping
FromChild = Hello | Broken | Finished | Returned | Submit | Pong

decode_to_child = msgspec.msgpack.Decoder(ToChild).decode
decode_from_child = msgspec.msgpack.Decoder(FromChild).decode
_encoder = msgspec.msgpack.Encoder()


def frame_of(message: ToChild | FromChild) -> bytearray:
    """Write a message as one frame."""
    frame = bytearray(LENGTH_BYTES)
    _encoder.encode_into(message, frame, LENGTH_BYTES)
    frame[:LENGTH_BYTES] = (len(frame) - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little")
    return frame


def job_of(attempt: Attempt, seat: int, lease: int) -> Job:
    return Job(
        seat,
        attempt.number,
        attempt.task_id,
        attempt.task_type,
        attempt.args,
        attempt.kwargs,
        attempt.attempt,
        attempt.fence,
        lease,
    )


def failure_of(error: BaseException) -> Failure:
    """Of our own errors all that callers look at; of others the text."""
    facts = vars(error) if isinstance(error, YadtqError) else {}
    return Failure(type(error).__name__, str(error), dict(facts))


def error_of(failure: Failure) -> YadtqError:
    """The same error, to be raised where the task submits."""
    kind = getattr(errors, failure.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, YadtqError)):
        return YadtqError(f"{failure.kind}: {failure.text}")
    error = kind.__new__(kind, failure.text)  # without its __init__, which would make another text
    error.__dict__.update(failure.facts)
    return error


class Inbound:
    """Bytes as they come in, frames as they are whole. The buffer is reused: a fresh one costs more than the read."""

    def __init__(self) -> None:
        self._buffer = bytearray(BUFFER_BYTES)
        self._start = self._end = 0

    def receive(self, source: socket.socket) -> int:
        """Read once; return how many bytes came, 0 at the end of the stream. Raises what `recv_into` raises."""
        self._make_room()
        with memoryview(self._buffer) as view, view[self._end :] as free:
            got = source.recv_into(free)
        self._end += got
        return got

    def frames(self) -> Iterator[memoryview]:
        """Give the frames that are whole. A view is valid until the next `receive`."""
        with memoryview(self._buffer) as view:
            while (whole := self._length()) is not None and self._start + whole <= self._end:
                with view[self._start + LENGTH_BYTES : self._start + whole] as frame:
                    yield frame
                self._start += whole

    def _length(self) -> int | None:
        """The length of the next frame with its head, where the head is there."""
        if self._end - self._start < LENGTH_BYTES:
            return None
        head = self._buffer[self._start : self._start + LENGTH_BYTES]
        return LENGTH_BYTES + int.from_bytes(head, "little")

    def _make_room(self) -> None:
        """Move what is left to the front; grow for a frame that does not fit, and shrink again after it."""
        left = self._end - self._start
        size = max(self._length() or 0, BUFFER_BYTES)
        if len(self._buffer) != size:
            buffer = bytearray(size)
            buffer[:left] = self._buffer[self._start : self._end]
            self._buffer = buffer
        elif self._start:
            self._buffer[:left] = self._buffer[self._start : self._end]
        self._start, self._end = 0, left
