"""What a verdict writes to Kafka, in a fixed order.

One invariant: what carries the task on (the retry) or keeps its bytes (the dead letter) is acknowledged before the
outcome is sent, and the outcome before the seal; a step that fails is repeated and never passed over. A crash between
any two steps is repaired when the record is read again: its claim is answered with the verdict, and all of its writes
are repeated (S3, C4).
"""

import hashlib
from collections.abc import Mapping

import msgspec

from yadtq.broker import Message, Record, Report
from yadtq.claim import Work
from yadtq.codec import OutcomeRecord, encode
from yadtq.delayed import delayed
from yadtq.intake import Assignment
from yadtq.layout import HEADER_KEY, HEADER_REASON, HEADER_SHA256, HEADER_SOURCE, HEADER_TASK, QueueTopics
from yadtq.ledger import TaskRecord
from yadtq.states import State

REASON_CHARS = 1_000
HEADER_BYTES = 8_192  # of a reference: it has to be small, whatever it refers to


def outcome_of(work: Work, worker: str, accepted_at_ms: int) -> OutcomeRecord:
    """The outcome that was accepted just now. accepted_at_ms: of a retry, the time it waits for."""
    verdict, run, envelope, record = work.verdict, work.held, work.envelope, work.record
    if verdict is None:
        raise AssertionError(f"task {envelope.task_id!r} has no verdict")
    waits = verdict.state is State.SCHEDULED
    return OutcomeRecord(
        task_id=envelope.task_id,
        task_type=envelope.task_type,
        state=verdict.state,
        attempts=run.attempt,
        fence=run.fence,
        result=msgspec.Raw(verdict.result or b"null"),
        error_log=verdict.error_log,
        worker=worker,
        queued_at_ms=work.queued_at_ms,
        started_at_ms=run.started_at_ms,
        finished_at_ms=None if waits else accepted_at_ms,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        generation=envelope.generation + waits,
        not_before_ms=accepted_at_ms if waits else 0,
        failures=run.failures + verdict.failed,
        deaths=run.deaths + verdict.died,
    )


def outcome_again(found: TaskRecord) -> OutcomeRecord:
    """The outcome that somebody accepted and may not have written."""
    waits = found.status is State.SCHEDULED
    return OutcomeRecord(
        task_id=found.task_id,
        task_type=found.task_type,
        state=found.status,
        attempts=found.attempts,
        fence=found.fence,
        result=msgspec.Raw(found.result or b"null"),
        error_log=found.error_log,
        worker=found.worker,
        queued_at_ms=found.queued_at_ms or 0,
        started_at_ms=found.started_at_ms,
        finished_at_ms=found.finished_at_ms,
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        generation=found.generation,
        not_before_ms=found.not_before_ms if waits else 0,
        failures=found.failures,
        deaths=found.deaths,
    )


class Writes:
    """The records that one verdict has still to write, and what it is about."""

    __slots__ = ("assignment", "messages", "outcome", "reason", "record", "work")

    def __init__(
        self,
        assignment: Assignment,
        record: Record,
        messages: list[Message],
        *,
        work: Work | None = None,
        outcome: OutcomeRecord | None = None,
        reason: str = "",
    ) -> None:
        self.assignment = assignment
        self.record = record
        self.messages = messages  # the first is to be sent now; none when all are acknowledged
        self.work = work
        self.outcome = outcome
        self.reason = reason

    def reported(self, report: Report) -> bool:
        """Take the report on the first message; False: it has to be sent again, after a pause."""
        if report.error is None:
            del self.messages[0]
            return True
        first = self.messages[0]
        if report.too_large and first.value and HEADER_REASON in first.headers and HEADER_SHA256 not in first.headers:
            self.messages[0] = reference(first)  # too large to copy: say where it lies
        return False


def writes_of(work: Work, outcome: OutcomeRecord, topics: QueueTopics) -> Writes:
    """The writes of a verdict (S1): the retry or the dead letter first, then the outcome."""
    messages = messages_of(work.record, outcome, topics)
    if outcome.state is State.SCHEDULED:
        messages.insert(0, _retry(work, outcome, topics))
    return Writes(work.assignment, work.record, messages, work=work, outcome=outcome)


def messages_of(record: Record, outcome: OutcomeRecord, topics: QueueTopics) -> list[Message]:
    """The outcome of the task that lies here, and before it, of a failure, the dead letter."""
    key = outcome.task_id.encode()
    messages = [Message(topics.outcomes, encode(outcome), key)]
    if outcome.state is State.FAILED:
        messages.insert(0, dead_letter(record, topics, last_line(outcome.error_log), key))
    return messages


def writes_of_undecodable(assignment: Assignment, record: Record, topics: QueueTopics, reason: str) -> Writes:
    """The one write of bytes that are no envelope. They have no id, so no outcome."""
    return Writes(assignment, record, [dead_letter(record, topics, reason, None)], reason=reason)


def writes_of_copy(work: Work) -> Writes:
    """A long task leaves the head of its partition: the same record again, at the tail (S5)."""
    record = work.record
    copy = Message(record.topic, record.value, record.key, record.partition, record.headers)
    return Writes(work.assignment, record, [copy], work=work, reason="copied")


def dead_letter(record: Record, topics: QueueTopics, reason: str, task_id: bytes | None) -> Message:
    """The original bytes and headers, with why and whence."""
    headers: Mapping[str, bytes] = {
        **record.headers,
        HEADER_REASON: reason[:REASON_CHARS].encode("utf-8", "backslashreplace"),
        HEADER_SOURCE: f"{record.topic}/{record.partition}/{record.offset}".encode(),
        **({HEADER_TASK: task_id} if task_id else {}),
        **({HEADER_KEY: record.key} if task_id and record.key is not None else {}),
    }
    return Message(topics.dead, record.value, task_id or record.key, headers=headers)


def last_line(error_log: str | None) -> str:
    return (error_log or "").strip().rsplit("\n", 1)[-1]


def _retry(work: Work, outcome: OutcomeRecord, topics: QueueTopics) -> Message:
    """The envelope of the next generation. It carries the failures, should the ledger forget them."""
    envelope = msgspec.structs.replace(
        work.envelope,
        generation=outcome.generation,
        not_before_ms=outcome.not_before_ms,
        task_tries=max(work.envelope.task_tries, outcome.failures),
        queued_at_ms=work.queued_at_ms,
    )
    return delayed(envelope, work.record.key, dict(work.record.headers), topics)


def reference(message: Message) -> Message:
    """A dead letter that says where its bytes lie, instead of one that is too large to hold them."""
    digest = hashlib.sha256(message.value or b"").hexdigest().encode()
    ours = (HEADER_REASON, HEADER_SOURCE, HEADER_TASK, HEADER_KEY)
    kept = {name: value for name, value in message.headers.items() if name in ours and len(value) <= HEADER_BYTES}
    return Message(message.topic, b"", message.key, headers={**kept, HEADER_SHA256: digest})
