"""What a pool and its children say arrives whole, however the stream cuts it."""

import contextlib
import socket

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yadtq.attempt import Attempt, Ending, Outcome
from yadtq.runners import frames

numbers = st.integers(0, 2**62)
attempts = st.builds(
    Attempt, numbers, st.text(), st.text(), st.binary(), st.binary(), st.integers(1, 2**31), st.text(max_size=20)
)
outcomes = st.builds(
    Outcome,
    numbers,
    st.sampled_from(Ending),
    numbers,
    numbers,
    st.none() | st.binary(),
    st.none() | st.text(),
)


def body(frame: bytearray) -> bytes:
    return bytes(frame[frames.LENGTH_BYTES :])


@given(attempts, st.integers(0, 1_000), st.integers(0, 65_535))
def test_an_attempt_arrives_as_it_was_sent(attempt: Attempt, seat: int, lease: int) -> None:
    read = frames.decode_to_child(body(frames.frame_of(frames.Jobs([frames.job_of(attempt, seat, lease)]))))
    assert isinstance(read, frames.Jobs)
    (job,) = read.jobs
    assert (job.seat, job.lease, job.to_attempt()) == (seat, lease, attempt)


@given(outcomes)
def test_an_outcome_arrives_as_it_was_sent(outcome: Outcome) -> None:
    read = frames.decode_from_child(body(frames.frame_of(frames.Finished([outcome]))))
    assert isinstance(read, frames.Finished)
    assert read.outcomes == [outcome]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 600_000), min_size=1, max_size=4), st.lists(st.integers(1_000, 300_000), min_size=1))
def test_frames_come_out_whole_however_they_were_cut(sizes: list[int], cuts: list[int]) -> None:
    sent = [frames.Broken("x" * size) for size in sizes]
    stream = b"".join(frames.frame_of(message) for message in sent)
    inbound, read, at, turn = frames.Inbound(), list[object](), 0, 0
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        while at < len(stream) or len(read) < len(sent):
            cut = stream[at : at + cuts[turn % len(cuts)]]
            with contextlib.suppress(BlockingIOError):  # the pipe is full: first the other end has to read
                at += theirs.send(cut)
            turn += 1
            inbound.receive(ours)
            read += [frames.decode_from_child(frame) for frame in inbound.frames()]
        assert read == sent
        theirs.close()
        assert inbound.receive(ours) == 0


def test_what_is_no_message_is_refused() -> None:
    for data in (b"", b"\xc1", msgspec.msgpack.encode([99, []]), msgspec.msgpack.encode({"tag": 1})):
        with pytest.raises(msgspec.MsgspecError):
            frames.decode_from_child(data)
