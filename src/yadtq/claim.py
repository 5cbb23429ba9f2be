"""One record on its way through the engine, and what the ledger is asked about it.

One invariant: the token names the assignment, the record and the round, so a claim whose answer was lost is asked
again with the same token and gets the same answer (C2), and a new round never finds the answer of an old one.
"""

import itertools
from collections.abc import Iterable

from msgspec import structs

from yadtq.attempt import Attempt, Place
from yadtq.broker import Record
from yadtq.catalogue import Known
from yadtq.envelope import Envelope
from yadtq.intake import Assignment
from yadtq.ledger import Claim, Held, Release, Run
from yadtq.retry import Verdict
from yadtq.task import FREE

_numbers = itertools.count(1)


class Work:
    """A record and its envelope, from the lane to the closed offset."""

    __slots__ = (
        "assignment",
        "copied",
        "envelope",
        "failures",
        "incarnation",
        "number",
        "place",
        "record",
        "round",
        "run",
        "since_mono",
        "told",
        "verdict",
    )

    def __init__(self, assignment: Assignment, record: Record, envelope: Envelope) -> None:
        self.assignment = assignment
        self.record = record
        self.envelope = envelope
        self.number = next(_numbers)
        self.round = 0  # how often it was claimed and came back; part of the token
        self.run: Run | None = None  # the claim, once it is answered RUN
        self.incarnation = ""  # of this worker, when it was claimed
        self.verdict: Verdict | None = None
        self.failures = 0  # of the tries in place, should the ledger forget them
        self.since_mono = 0.0  # when it was given to a runner, or first asked for elsewhere
        self.place: Place = "shared"  # the lanes that it waits in
        self.told = False  # that it has started
        self.copied = False  # a copy of its record carries it: its own is closed, or will be with the copy's report

    @property
    def held(self) -> Run:
        """The claim that this work holds."""
        if self.run is None:
            raise AssertionError(f"task {self.envelope.task_id!r} holds no claim")
        return self.run

    @property
    def queued_at_ms(self) -> int:
        return self.envelope.queued_at_ms or self.record.timestamp_ms

    def claim(self, known: Known) -> Claim:
        """The question for the ledger."""
        envelope, record = self.envelope, self.record
        return Claim(
            envelope.task_id,
            f"{self.assignment.number}/{record.partition}/{record.offset}/{self.round}",
            envelope.task_type,
            record.partition,
            record.offset,
            self.queued_at_ms,
            max(envelope.task_tries, self.failures),
            envelope.max_attempts,
            "" if known.get(envelope.task_type) else refusal(envelope.task_type, known),
            envelope.generation,
            self.assignment.doubts(record),
        )

    def attempt(self, known: Known) -> Attempt:
        """What the runner is given. A task that has ended a process runs alone from then on."""
        envelope, run = self.envelope, self.held
        task = known.get(envelope.task_type)
        limits = task.limits if task is not None else FREE
        return Attempt(
            self.number,
            envelope.task_id,
            envelope.task_type,
            bytes(envelope.task_args),
            bytes(envelope.task_kwargs),
            run.attempt,
            run.fence,
            place="solo" if limits.solo else "suspect" if run.deaths > 0 else self.place,
            time_limit_s=limits.time_limit_s or 0.0,
            incarnation=self.incarnation,
        )

    def release(self) -> Release:
        """Give the claim back (C1)."""
        return Release(self.envelope.task_id, self.held.fence)

    def holding(self) -> Held:
        """What is registered of this attempt while the ledger waits (R3)."""
        envelope, record, run = self.envelope, self.record, self.held
        return Held(
            envelope.task_id,
            run.fence,
            envelope.task_type,
            record.partition,
            record.offset,
            self.queued_at_ms,
            run.attempt,
            run.failures,
            run.deaths,
            envelope.generation,
            run.started_at_ms,
        )

    def renew(self, epoch: int) -> None:
        """What is written to Kafka now has to bear the present epoch, or no reader counts it (R4)."""
        run = self.held
        if not run.fence.startswith(f"{epoch}."):
            self.run = structs.replace(run, fence=f"{epoch}.{run.fence.partition('.')[2]}")


def refusal(task_type: str, known: Known) -> str:
    """Say why this worker cannot run such a task."""
    return f"unknown task {task_type!r}; this worker knows {', '.join(known.names) or 'none'}"


def close_records(works: Iterable[Work]) -> None:
    """The fate of these is durable: their offsets may be committed."""
    offsets: dict[Assignment, list[int]] = {}
    for work in works:
        if not work.copied:  # else the copy's report closes its record
            offsets.setdefault(work.assignment, []).append(work.record.offset)
    for assignment, together in offsets.items():
        assignment.close(*together)
