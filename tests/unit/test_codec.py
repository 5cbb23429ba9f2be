"""Envelopes and outcomes to bytes and back; whatever arrives is read or kept as it is."""

import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.codec import OutcomeRecord, Undecodable, decode, decode_outcome, encode, id_problem
from yadtq.envelope import Envelope
from yadtq.states import State

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
IDS = st.text(min_size=1, max_size=200).filter(str.isprintable)
NUMBERS = st.integers(0, 2**31)
GOOD = {"task_id": "a", "task_type": "add"}


def line(**changes: object) -> bytes:
    return json.dumps(GOOD | changes).encode()


def complaint_about(read: Callable[[bytes], object], data: bytes) -> Undecodable | None:
    try:
        read(data)
    except Undecodable as error:
        return error
    return None


def test_a_line_of_the_original_task_file_is_an_envelope() -> None:
    data = b'{"task_id": "17", "task_type": "add", "task_args": ["12", "67"], "task_tries": 0}'
    envelope = decode(data)
    assert (envelope.task_id, envelope.task_type, envelope.task_tries) == ("17", "add", 0)
    assert bytes(envelope.task_args) == b'["12", "67"]'
    assert (envelope.version, envelope.generation, envelope.max_attempts, envelope.queued_at_ms) == (1, 0, 3, 0)


def test_fields_that_nobody_knows_are_no_harm() -> None:
    assert decode(line(comment="hello")) == decode(line())


@given(
    task_id=IDS,
    task_type=st.text(min_size=1),
    args=st.lists(JSON, max_size=3),
    kwargs=st.dictionaries(st.text(), JSON, max_size=3),
    numbers=st.tuples(NUMBERS, NUMBERS, st.integers(0, 2**53), st.integers(1, 2**31)),
)
def test_an_envelope_comes_back_as_it_was(
    task_id: str, task_type: str, args: list[object], kwargs: dict[str, object], numbers: tuple[int, int, int, int]
) -> None:
    tries, generation, queued_at_ms, max_attempts = numbers
    envelope = Envelope(
        task_id=task_id,
        task_type=task_type,
        task_args=msgspec.Raw(msgspec.json.encode(args)),
        task_kwargs=msgspec.Raw(msgspec.json.encode(kwargs)),
        task_tries=tries,
        generation=generation,
        queued_at_ms=queued_at_ms,
        max_attempts=max_attempts,
    )
    assert decode(encode(envelope)) == envelope


@given(st.binary() | st.text().map(str.encode) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_raise_anything_but_undecodable(data: bytes) -> None:
    for read in (decode, decode_outcome):
        complaint = complaint_about(read, data)
        assert complaint is None or (complaint.data == data and complaint.reason)


@given(st.dictionaries(st.sampled_from(Envelope.__struct_fields__), JSON).map(lambda d: json.dumps(GOOD | d).encode()))
def test_no_field_of_another_type_raises_anything_but_undecodable(data: bytes) -> None:
    if complaint_about(decode, data) is None:
        assert decode(encode(decode(data))) == decode(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"null", "object"),
        (b"[]", "object"),
        (b"{}", "task_id"),
        (b'{"task_id":"a"}', "task_type"),
        (line(task_id=7), "task_id"),
        (line(task_id=""), "1 to 200 characters"),
        (line(task_id="x" * 201), "1 to 200 characters"),
        (line(task_id="a\nb"), "printed"),
        (line(task_type=""), "task_type is empty"),
        (line(task_args="[]"), "task_args is not a JSON array"),
        (line(task_args=None), "task_args is not a JSON array"),
        (line(task_kwargs=[]), "task_kwargs is not a JSON object"),
        (line(task_tries=-1), "from 0 to"),
        (line(generation=-1), "from 0 to"),
        (line(queued_at_ms=-1), "from 0 to"),
        (line(max_attempts=0), "max_attempts from 1"),
        (line(task_tries=2**31 + 1), "from 0 to"),
        (line(max_attempts=2**31 + 1), "from 0 to"),
        (line(queued_at_ms=2**63), "from 0 to"),
        (line(version=2), "newer"),
        (line(task_args=[]) + b"x", "trailing"),
        (b'{"task_id":"a","task_type":"add","task_args":["\xff"]}', "utf-8"),
        (b'{"task_id":"a","task_type":"add","task_args":' + b"[" * 100_000, "recursion"),
        (b'{"task_id":"a","task_type":"add","task_tries":' + b"9" * 5_000 + b"}", "range"),
    ],
)
def test_what_is_no_envelope_is_said_to_be_none_and_why(data: bytes, reason: str) -> None:
    with pytest.raises(Undecodable, match=f"(?i){reason}") as caught:
        decode(data)
    assert caught.value.data == data


@pytest.mark.parametrize("task_id", ["a", "x" * 200, "snow ☃", '"quoted"', "a:b*c"])
def test_any_printable_text_is_an_id(task_id: str) -> None:
    assert id_problem(task_id) is None
    assert decode(line(task_id=task_id)).task_id == task_id


def test_an_outcome_comes_back_as_it_was() -> None:
    outcome = OutcomeRecord(
        task_id="a",
        task_type="add",
        state=State.FAILED,
        attempts=3,
        fence="7.3",
        error_log='line\n"two" ☃',
        worker="w1",
        queued_at_ms=1,
        started_at_ms=2,
        finished_at_ms=3,
        topic="q",
        partition=1,
        offset=9,
    )
    assert decode_outcome(encode(outcome)) == outcome


def test_an_outcome_is_plain_json_for_everybody() -> None:
    outcome = OutcomeRecord(
        task_id="a", task_type="add", state=State.SUCCESS, attempts=1, fence="7.1", result=msgspec.Raw(b"[3]")
    )
    assert json.loads(encode(outcome)) == {
        "task_id": "a",
        "task_type": "add",
        "state": "SUCCESS",
        "attempts": 1,
        "fence": "7.1",
        "result": [3],
    }
