"""What a verdict writes to Kafka, in a fixed order.

One invariant: the dead letter is acknowledged before the outcome is sent, and the outcome before the seal; a step that
fails is repeated and never passed over. A crash between any two steps is repaired when the record is read again: its
claim is answered with the verdict, and all of its writes are repeated (S3).
"""

import hashlib
from collections.abc import Mapping

import msgspec

from yadtq.broker import Message, Record, Report
from yadtq.claim import Work
from yadtq.codec import OutcomeRecord, encode
from yadtq.intake import Assignment
from yadtq.layout import HEADER_REASON, HEADER_SHA256, HEADER_SOURCE, HEADER_TASK, QueueTopics
from yadtq.ledger import TaskRecord
from yadtq.states import State

REASON_CHARS = 1_000


def outcome_of(work: Work, worker: str, finished_at_ms: int) -> OutcomeRecord:
    """The outcome that was accepted just now."""
    verdict, run, envelope, record = work.verdict, work.held, work.envelope, work.record
    if verdict is None:
        raise AssertionError(f"task {envelope.task_id!r} has no verdict")
    return OutcomeRecord(
        task_id=envelope.task_id,
        task_type=envelope.task_type,
        state=verdict.state,
        attempts=run.attempt,
        fence=run.fence,
        result=msgspec.Raw(verdict.result or b"null"),
        error_log=verdict.error_log,
        worker=worker,
        queued_at_ms=envelope.queued_at_ms or record.timestamp_ms,
        started_at_ms=run.started_at_ms,
        finished_at_ms=finished_at_ms,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
    )


def outcome_again(found: TaskRecord) -> OutcomeRecord:
    """The outcome that somebody accepted and may not have written."""
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
    )


class Writes:
    """The records that one verdict has still to write."""

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
        self.work = work
        self.outcome = outcome
        self.reason = reason
        self._messages = messages

    @property
    def next(self) -> Message | None:
        """The message to send now; None when all are acknowledged."""
        return self._messages[0] if self._messages else None

    def reported(self, report: Report) -> bool:
        """Take the report on `next`; False: it has to be sent again, after a pause."""
        if report.error is None:
            del self._messages[0]
            return True
        first = self._messages[0]
        if report.too_large and first.value and HEADER_REASON in first.headers and HEADER_SHA256 not in first.headers:
            self._messages[0] = _reference(first, self.record)  # too large to copy: say where it lies
        return False


def writes_of(work: Work, outcome: OutcomeRecord, topics: QueueTopics) -> Writes:
    """The writes of a final verdict: the dead letter of a failure first (S1), then the outcome."""
    key = outcome.task_id.encode()
    messages = [Message(topics.outcomes, encode(outcome), key)]
    if outcome.state is State.FAILED:
        reason = (outcome.error_log or "").strip().rsplit("\n", 1)[-1]
        messages.insert(0, dead_letter(work.record, topics, reason, key))
    return Writes(work.assignment, work.record, messages, work=work, outcome=outcome)


def writes_of_undecodable(assignment: Assignment, record: Record, topics: QueueTopics, reason: str) -> Writes:
    """The one write of bytes that are no envelope. They have no id, so no outcome."""
    return Writes(assignment, record, [dead_letter(record, topics, reason, None)], reason=reason)


def dead_letter(record: Record, topics: QueueTopics, reason: str, task_id: bytes | None) -> Message:
    """The original bytes and headers, with why and whence."""
    headers: Mapping[str, bytes] = {
        **record.headers,
        HEADER_REASON: reason[:REASON_CHARS].encode("utf-8", "backslashreplace"),
        HEADER_SOURCE: f"{record.topic}/{record.partition}/{record.offset}".encode(),
        **({HEADER_TASK: task_id} if task_id else {}),
    }
    return Message(topics.dead, record.value, task_id or record.key, headers=headers)


def _reference(message: Message, record: Record) -> Message:
    digest = hashlib.sha256(record.value).hexdigest().encode()
    ours = (HEADER_REASON, HEADER_SOURCE, HEADER_TASK)
    kept = {name: value for name, value in message.headers.items() if name in ours}
    return Message(message.topic, b"", message.key, headers={**kept, HEADER_SHA256: digest})
