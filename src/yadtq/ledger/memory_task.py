"""A record of the memory ledger, and what the scripts in Redis decide by looking at one record.

One invariant: nothing here knows of other records, workers or time but by its arguments.
"""

from dataclasses import dataclass

from msgspec import structs

from yadtq.codec import OutcomeRecord
from yadtq.ledger.protocol import MAX_TAKEOVERS, Claim, Held, NewTask, Seal, TaskRecord
from yadtq.states import FINAL, State


@dataclass(slots=True)
class Task:
    """A record and what users do not see of it."""

    record: TaskRecord
    takeovers: int = 0
    resend: bool = False  # a retry was accepted, and Kafka may not have it
    accepted_at_ms: int = 0  # of a retry: the time it waits for
    accepted: str = ""  # the fence whose verdict was accepted last
    carried: str = ""  # the fence that it had in the life before (R4)
    incarnation: str = ""  # of the worker that holds it
    token: str = ""  # of the claim that holds it
    expires_at_ms: int | None = None

    def set(self, **changes: object) -> None:
        self.record = structs.replace(self.record, **changes)

    def renew(self, epoch: int) -> None:
        """Give an accepted verdict a fence of the present epoch: what is written to Kafka now has to bear it (R4)."""
        if not is_of(self.record.fence, epoch):
            self.carried = self.record.fence
            self.accepted = f"{epoch}.{numbers_of(self.record.fence)[1]}"
            self.set(fence=self.accepted)

    def was(self, fence: str) -> bool:
        """Whether the present fence was this one in the life before. A later claim has a higher counter."""
        return self.carried == fence and numbers_of(fence)[1] == numbers_of(self.record.fence)[1]

    def may_seal(self, seal: Seal, epoch: int) -> bool:
        """Whether Kafka certainly has what this fence wrote, in a place where readers count it."""
        record = self.record
        read_in = record.sealed or (record.status is State.SCHEDULED and not self.resend)
        return record.fence == seal.fence and (is_of(seal.fence, epoch) or read_in)

    def gives_way(self, outcome: OutcomeRecord) -> bool:
        """Whether an outcome that Kafka has is newer than this record."""
        if outcome.state in FINAL:
            older = numbers_of(self.record.fence)[0] < numbers_of(outcome.fence)[0]
            return not self.record.sealed or older  # S4: the first of the newest life counts
        return self.record.status not in FINAL and numbers_of(outcome.fence) >= numbers_of(self.record.fence)


def blank(task: NewTask | Claim, topic: str) -> TaskRecord:
    """A task of which nothing is known but where it lies."""
    return TaskRecord(
        task_id=task.task_id,
        status=State.QUEUED,
        sealed=False,
        task_type=task.task_type,
        attempts=0,
        fence="",
        worker=None,
        result=None,
        error_log=None,
        queued_at_ms=task.queued_at_ms,
        started_at_ms=None,
        finished_at_ms=None,
        topic=topic,
        partition=task.partition,
        offset=task.offset,
    )


def over(task: Task, claim: Claim, lost: str) -> str:
    """Say why a claimed task ends here and does not run (C5), or nothing."""
    if claim.refusal:
        return claim.refusal
    if task.record.failures >= claim.max_attempts:
        why = f"no attempt is left: {task.record.failures} of {claim.max_attempts} were made before"
        return task.record.error_log or why
    if task.takeovers > MAX_TAKEOVERS:
        return f"its workers were lost {task.takeovers} times while it ran; the last one was {lost}"
    return ""


def held(attempt: Held, topic: str, worker: str, incarnation: str) -> Task:
    """The record of an attempt that was registered (R3)."""
    record = TaskRecord(
        task_id=attempt.task_id,
        status=State.PROCESSING,
        sealed=False,
        task_type=attempt.task_type,
        attempts=attempt.attempt,
        fence=attempt.fence,
        worker=worker,
        result=None,
        error_log=None,
        queued_at_ms=attempt.queued_at_ms,
        started_at_ms=attempt.started_at_ms,
        finished_at_ms=None,
        topic=topic,
        partition=attempt.partition,
        offset=attempt.offset,
        generation=attempt.generation,
        failures=attempt.failures,
        deaths=attempt.deaths,
    )
    return Task(record, incarnation=incarnation)


def restored(o: OutcomeRecord) -> Task:
    """The record of an outcome that Kafka has (R3)."""
    record = TaskRecord(
        task_id=o.task_id,
        status=o.state,
        sealed=o.state in FINAL,
        task_type=o.task_type,
        attempts=o.attempts,
        fence=o.fence,
        worker=o.worker,
        result=bytes(o.result) if o.state is State.SUCCESS else None,
        error_log=o.error_log,
        queued_at_ms=o.queued_at_ms,
        started_at_ms=o.started_at_ms,
        finished_at_ms=o.finished_at_ms if o.state in FINAL else None,
        topic=o.topic,
        partition=o.partition,
        offset=o.offset,
        generation=o.generation,
        not_before_ms=o.not_before_ms if o.state is State.SCHEDULED else 0,
        failures=o.failures,
        deaths=o.deaths,
    )
    return Task(record, accepted=o.fence, accepted_at_ms=o.finished_at_ms or o.not_before_ms)


def numbers_of(fence: str) -> tuple[int, int]:
    """Epoch and counter of a fence; what has none is before all."""
    epoch, _, counter = fence.partition(".")
    return (int(epoch), int(counter)) if epoch.isdecimal() and counter.isdecimal() else (-1, -1)


def is_of(fence: str, epoch: int) -> bool:
    """Whether a fence was given under this epoch."""
    return fence.startswith(f"{epoch}.")
