"""Envelopes and outcome records to bytes and back.

One invariant: no bytes make it raise anything but `Undecodable`, and `Undecodable` carries the bytes, so nothing that
arrives is lost or stops a worker.
"""

from typing import Annotated, TypeVar

import msgspec

from yadtq.envelope import MAX_ID_CHARS, Envelope
from yadtq.errors import YadtqError
from yadtq.states import State

VERSION = 1
MOST = 2**31
MOST_MS = 2**53  # further than every store can count
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what bytes make a decoder raise

T = TypeVar("T")


class Undecodable(YadtqError):
    """These bytes are not an envelope; they belong in the dead-letter topic as they are."""

    def __init__(self, data: bytes, reason: str) -> None:
        super().__init__(f"not an envelope: {reason}")
        self.data = data
        self.reason = reason


class OutcomeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record in `Q.outcomes`: the accepted outcome of a task. Any Kafka client may read it; JSON."""

    task_id: str
    task_type: str
    state: State
    attempts: int  # starts of user code, in all
    fence: str  # epoch.counter of the attempt that was accepted
    result: msgspec.Raw = msgspec.Raw(b"null")  # JSON, with SUCCESS
    error_log: str | None = None  # with FAILED
    worker: str | None = None  # who ran it; None where nothing ran
    queued_at_ms: int = 0
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    topic: str = ""  # where the envelope lies
    partition: int = -1
    offset: int = -1
    generation: int = 0  # which planned run this is the end of; for SCHEDULED the one that follows
    not_before_ms: int = 0  # with SCHEDULED: when it follows
    failures: int = 0  # of the code, so far
    deaths: int = 0  # of the processes that ran it, so far
    version: int = VERSION


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """A record in `Q.outcomes` that is no outcome: from here on the outcomes of earlier lives do not count (R4)."""

    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    worker: str = ""  # who opened this life


_encoder = msgspec.json.Encoder()
_envelopes = msgspec.json.Decoder(Envelope)
_outcomes = msgspec.json.Decoder(OutcomeRecord)
_markers = msgspec.json.Decoder(Marker)


def encode(value: Envelope | OutcomeRecord | Marker) -> bytes:
    """Write an envelope, an outcome record or a marker as JSON."""
    return _encoder.encode(value)


def decode(data: bytes) -> Envelope:
    """Read an envelope.

    Raises:
        Undecodable: The bytes are not one, or are of a newer version.
    """
    try:
        data.decode()  # what is left raw is not looked at by the decoder, and may not be text
        envelope = _envelopes.decode(data)
        problem = problem_of(envelope)
    except UNREADABLE as error:
        raise Undecodable(data, str(error)) from error
    if problem:
        raise Undecodable(data, problem)
    return envelope


def decode_outcome(data: bytes) -> OutcomeRecord:
    """Read an outcome record.

    Raises:
        Undecodable: The bytes are not one.
    """
    return _read(_outcomes, data)


def decode_marker(data: bytes) -> Marker:
    """Read a marker.

    Raises:
        Undecodable: The bytes are not one.
    """
    return _read(_markers, data)


def _read(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except UNREADABLE as error:
        raise Undecodable(data, str(error)) from error


def id_problem(task_id: str) -> str | None:
    """Say what is wrong with a task id, or None."""
    if not 0 < len(task_id) <= MAX_ID_CHARS:
        return f"task_id has 1 to {MAX_ID_CHARS} characters, not {len(task_id)}"
    if not task_id.isprintable():
        return "task_id has characters that cannot be printed"
    return None


def problem_of(envelope: Envelope) -> str | None:
    """Say why a worker would not take this envelope, or None."""
    if envelope.version > VERSION:
        return f"version {envelope.version} is newer than this worker knows ({VERSION}); update it, then replay"
    if not bytes(envelope.task_args).lstrip().startswith(b"["):
        return "task_args is not a JSON array"
    if not bytes(envelope.task_kwargs).lstrip().startswith(b"{"):
        return "task_kwargs is not a JSON object"
    if not envelope.task_type:
        return "task_type is empty"
    counts = 0 <= envelope.task_tries <= MOST and 0 <= envelope.generation <= MOST
    if not (counts and 1 <= envelope.max_attempts <= MOST):
        return f"task_tries and generation are from 0 to {MOST} and max_attempts from 1"
    if not (0 <= envelope.queued_at_ms <= MOST_MS and 0 <= envelope.not_before_ms <= MOST_MS):
        return f"queued_at_ms and not_before_ms are from 0 to {MOST_MS}"
    return id_problem(envelope.task_id)
