"""One record on its way from its lane to its closed offset, and the question it asks the ledger.

One invariant: a work asks with one token until it is answered (C2); only an answer that has been used up, by a run or a
release, makes the next question a new one.
"""

import itertools
from dataclasses import dataclass, field

from yadtq.attempt import Attempt
from yadtq.broker import Record
from yadtq.envelope import Envelope
from yadtq.intake import Assignment
from yadtq.ledger import Claim, Release, Run
from yadtq.retry import Verdict
from yadtq.task import FREE, Registry

_numbers = itertools.count(1)


@dataclass(eq=False, slots=True)
class Work:
    """One opened record on its way from the lane to its closed offset."""

    assignment: Assignment
    record: Record
    envelope: Envelope
    solo: bool = False  # it waits among those that run alone
    round: int = 0  # how often it was claimed and came back; part of the token
    number: int = field(default_factory=lambda: next(_numbers))
    run: Run | None = None  # the claim, once it is answered RUN
    verdict: Verdict | None = None

    @property
    def held(self) -> Run:
        """The claim that this work holds."""
        if self.run is None:
            raise AssertionError(f"task {self.envelope.task_id!r} holds no claim")
        return self.run

    def claim(self, registry: Registry) -> Claim:
        """The question for the ledger."""
        envelope, record = self.envelope, self.record
        return Claim(
            token=f"{self.assignment.number}/{record.partition}/{record.offset}/{self.round}",
            task_id=envelope.task_id,
            task_type=envelope.task_type,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            queued_at_ms=envelope.queued_at_ms or record.timestamp_ms,
            tries=envelope.task_tries,
            max_attempts=envelope.max_attempts,
            refusal=refusal(envelope.task_type, registry),
        )

    def attempt(self, registry: Registry) -> Attempt:
        """What the runner is given. A task that has ended a process runs alone from then on."""
        envelope, run = self.envelope, self.held
        task = registry.get(envelope.task_type)
        limits = task.limits if task is not None else FREE
        return Attempt(
            self.number,
            envelope.task_id,
            envelope.task_type,
            bytes(envelope.task_args),
            bytes(envelope.task_kwargs),
            run.attempt,
            run.fence,
            solo=limits.solo or run.deaths > 0,
            time_limit_s=limits.time_limit_s or 0.0,
        )

    def release(self) -> Release:
        """Give the claim back (C1)."""
        return Release(self.envelope.task_id, self.held.fence)


def refusal(task_type: str, registry: Registry) -> str:
    """Say why this worker cannot run such a task; empty where it can."""
    if registry.get(task_type) is not None:
        return ""
    return f"unknown task {task_type!r}; this worker knows {', '.join(registry.names) or 'none'}"
