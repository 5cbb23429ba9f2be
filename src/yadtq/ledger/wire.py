"""The values of the hot scripts, as one msgpack argument and one msgpack reply each.

One invariant: the scripts of these names take these arrays apart in the same order.

Measured for 500 claims: 40 us a task with one Redis argument a value, 10 us with one argument for all. Redis's client
spends most of that time on packing arguments and parsing replies, not the server on the script.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from yadtq.codec import OutcomeRecord
from yadtq.layout import BARRIER_MS, LOCK_MS
from yadtq.ledger.protocol import (
    MAX_TAKEOVERS,
    Accept,
    Answer,
    Batch,
    Claim,
    Elsewhere,
    Held,
    NewTask,
    Over,
    Refusal,
    Release,
    Resend,
    Run,
    Seal,
    Stale,
    TaskRecord,
)
from yadtq.states import FINAL, State

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
WAIT = b"WAIT"
Seen = tuple[int, int]  # epoch, and how many calls of this worker it had answered


def exchange_value(
    seen: Seen, task_key: str, topic: str, worker: str, incarnation: str, oldest_ms: int, batch: Batch
) -> bytes:
    """The argument of `exchange.lua`."""
    accepts = [_accept(accept) for accept in batch.accepts]
    return _encode((*seen, task_key, topic, worker, incarnation, MAX_TAKEOVERS, oldest_ms, accepts, batch.claims))


def finish_value(
    seen: Seen, worker: str, task_key: str, ttl_s: int, channel: str, seals: Sequence[Seal], releases: Sequence[Release]
) -> bytes:
    """The argument of `finish.lua`."""
    return _encode((*seen, worker, task_key, ttl_s, channel, seals, releases))


def register_value(task_key: str, topic: str, worker: str, incarnation: str, attempts: Sequence[Held]) -> bytes:
    """The argument of `register.lua`."""
    return _encode((task_key, topic, worker, incarnation, BARRIER_MS, attempts))


def restore_value(token: str, task_key: str, ttl_s: int, absent_only: bool, outcomes: Sequence[OutcomeRecord]) -> bytes:
    """The argument of `restore.lua`."""
    rows = [
        (o.task_id, o.state in FINAL, o.fence, 0 if o.generation else o.finished_at_ms or 0, _fields(o))
        for o in outcomes
    ]
    return _encode((token, LOCK_MS, task_key, ttl_s, absent_only, rows))


def queued_value(task_key: str, tasks: Iterable[NewTask]) -> bytes:
    """The argument of `queued.lua`."""
    rows = [
        (t.task_id, t.task_type, t.topic, t.partition, t.offset, t.queued_at_ms, t.tries, t.not_before_ms)
        for t in tasks
    ]
    return _encode((task_key, rows))


def exchange_reply(reply: bytes, claims: Sequence[Claim]) -> tuple[list[int | None], Sequence[Answer], Seen]:
    """Read the reply of `exchange.lua`."""
    accepted, answers, epoch, writes, now_ms = _decode(reply)
    if answers == "DEAD":
        answers = [[Refusal.DEAD]] * len(claims)
    first = Run(f"{epoch}.1", 1, 0, now_ms)  # one for all
    found = [
        first if answer == 1 else _answer(claim.task_id, answer) for claim, answer in zip(claims, answers, strict=True)
    ]
    return [at or None for at in accepted], found, (int(epoch), writes)


def finish_reply(reply: bytes) -> tuple[list[bool], Seen]:
    """Read the reply of `finish.lua`."""
    sealed, epoch, writes = _decode(reply)
    return list(sealed), (int(epoch), writes)


def _fields(o: OutcomeRecord) -> list[str | int]:
    """The hash of a record that Kafka has, names and values in turn."""
    found: dict[str, str | int | None] = {
        "task_type": o.task_type,
        "status": o.state,
        "fence": o.fence,
        "attempts": o.attempts,
        "failures": o.failures,
        "deaths": o.deaths,
        "generation": o.generation,
        "worker": o.worker,
        "error_log": o.error_log,
        "queued_at_ms": o.queued_at_ms,
        "started_at_ms": o.started_at_ms,
        "source": f"{o.topic}/{o.partition}/{o.offset}",
    }
    if o.state is State.SCHEDULED:
        found["not_before_ms"] = o.not_before_ms
    else:
        found |= {"finished_at_ms": o.finished_at_ms, "sealed": 1}
        if o.state is State.SUCCESS:
            found["result"] = bytes(o.result).decode("utf-8", "backslashreplace")
    return [each for name, value in found.items() if value is not None for each in (name, value)]


def _accept(a: Accept) -> tuple[Any, ...]:
    # As text: the server's msgpack knows no type for bytes.
    result = a.result.decode("utf-8", "backslashreplace") if a.result else ""
    return (a.task_id, a.fence, a.state, a.wait_ms, a.failed, a.died, result, a.error_log or "")


def _answer(task_id: str, answer: Sequence[Any]) -> Answer:
    kind = answer[0]
    if kind == "RUN":
        return Run(*answer[1:])
    if kind == "OVER":
        return Over(record_of(task_id, _pairs(answer[1])))
    if kind == "ELSEWHERE":
        return Elsewhere(answer[1])
    if kind == "RESEND":
        return Resend(record_of(task_id, _pairs(answer[1])))
    return Stale() if kind == "STALE" else Refusal(kind)


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def record_of(task_id: str, found: Mapping[str, str]) -> TaskRecord:
    """A task's hash as the value that users of the port get."""

    def number(name: str) -> int | None:
        value = found.get(name)
        return None if value is None else int(value)

    result = found.get("result")
    topic, partition, offset = found.get("source", "/0/0").rsplit("/", 2)
    return TaskRecord(
        task_id=task_id,
        status=State(found.get("status", State.QUEUED)),
        sealed="sealed" in found,
        task_type=found.get("task_type", ""),
        attempts=number("attempts") or 0,
        fence=found.get("fence", ""),
        worker=found.get("worker"),
        result=None if result is None else result.encode(),
        error_log=found.get("error_log"),
        queued_at_ms=number("queued_at_ms"),
        started_at_ms=number("started_at_ms"),
        finished_at_ms=number("finished_at_ms"),
        topic=topic,
        partition=int(partition),
        offset=int(offset),
        generation=number("generation") or 0,
        not_before_ms=number("not_before_ms") or 0,
        failures=number("failures") or 0,
        deaths=number("deaths") or 0,
    )
