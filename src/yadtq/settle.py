"""Settle: how a verdict becomes durable, for many tasks at a time.

    finished -> accept (ledger, by fence) -> retry or dead letter, then outcome (Kafka) -> seal (ledger) -> closed

One invariant: what waits for an answer is in exactly one place, `accepting`, `writing` or `sealing`, until it is
answered, so a lost answer is asked for again. When the process dies, every step that was not durable is repeated by
the next owner of the record.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from yadtq.broker import Producer, Report
from yadtq.claim import Work
from yadtq.layout import QueueTopics
from yadtq.ledger import Accept, Seal
from yadtq.retry import Verdict
from yadtq.service import Clock
from yadtq.states import State
from yadtq.telemetry import Event, Telemetry
from yadtq.writes import Writes, last_line, outcome_of, writes_of

WRITE_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Reported:
    """Kafka's answers on messages that were sent, each with what it was sent for."""

    reports: Sequence[tuple[Writes, Report]]


class Settler:
    """The verdicts on their way. One thread owns it; Kafka's answers come to its inbox."""

    def __init__(
        self,
        producer: Producer,
        topics: QueueTopics,
        worker: str,
        telemetry: Telemetry,
        clock: Clock,
        inbox: Callable[[Reported], None],
    ) -> None:
        self.accepting: list[Work] = []
        self.writing: set[Writes] = set()
        self.sealing: list[Writes] = []
        self._producer = producer
        self._topics = topics
        self._worker = worker
        self._telemetry = telemetry
        self._clock = clock
        self._inbox = inbox
        self._again: list[tuple[float, Writes]] = []

    @property
    def idle(self) -> bool:
        return not (self.accepting or self.writing or self.sealing)

    @property
    def asking(self) -> bool:
        """Something waits for the ledger."""
        return bool(self.accepting or self.sealing)

    @property
    def times(self) -> list[float]:
        """When something is to be sent again."""
        return [at for at, _ in self._again]

    # -- step 1 --------------------------------------------------------------------------------------------------------

    def finished(self, work: Work, verdict: Verdict) -> None:
        work.verdict = verdict
        self.accepting.append(work)

    def accepted(
        self, works: Sequence[Work], answers: Sequence[int | None], epoch: int
    ) -> tuple[list[Work], list[tuple[Work, float]]]:
        """Take the ledger's answers. Return what has run for the last time, and what is claimed again in so many s."""
        done: list[Work] = []
        back: list[tuple[Work, float]] = []
        writes: list[Writes] = []
        for work, accepted_at_ms in zip(works, answers, strict=True):
            verdict = work.verdict
            if verdict is None or accepted_at_ms is None:  # S2: closes nothing; the claim knows what became of it
                self._telemetry.tell(event_of("refused", work))
                back.append((work, 0.0))
                continue
            if verdict.state in (State.QUEUED, State.SCHEDULED):
                kind = "outcome_lost" if verdict.lost else "retrying" if verdict.charged else "snoozed"
                why = f"in {verdict.wait_s:.2f} s: {last_line(verdict.error_log)}"
                self._telemetry.tell(event_of(kind, work, why))
            if verdict.state is State.QUEUED:
                work.failures = work.held.failures + verdict.failed
                back.append((work, verdict.wait_s))
            else:
                work.renew(epoch)
                done.append(work)
                writes.append(writes_of(work, outcome_of(work, self._worker, accepted_at_ms), self._topics))
        self.write(writes)
        return done, back

    # -- step 2 --------------------------------------------------------------------------------------------------------

    def write(self, writes: Iterable[Writes]) -> None:
        """Send the next message of each; what has none left is sealed (or closed, where there is nothing to seal)."""
        sending: list[Writes] = []
        for each in writes:
            if each.messages:
                self.writing.add(each)
                sending.append(each)
                continue
            self.writing.discard(each)
            if each.outcome is not None:
                self.sealing.append(each)
            else:
                self._written(each)
        if sending:
            self._producer.produce_batch([each.messages[0] for each in sending], sending, self._on_reports)

    def _on_reports(self, reports: list[tuple[Writes, Report]]) -> None:
        """On the producer's thread."""
        self._inbox(Reported(reports))

    def reported(self, reports: Sequence[tuple[Writes, Report]]) -> None:
        """Take Kafka's answers."""
        going_on: list[Writes] = []
        for writes, report in reports:
            if writes.reported(report):
                going_on.append(writes)
            else:
                self._telemetry.failed("Kafka", f"Kafka does not take a record: {report.error}")
                self._again.append((self._clock.mono_s() + WRITE_AGAIN_S, writes))
        if going_on:
            self._telemetry.answered("Kafka")
            self.write(going_on)

    def send_again(self) -> None:
        """Send what was not acknowledged and has waited."""
        if self._again:
            now = self._clock.mono_s()
            due = [writes for at, writes in self._again if at <= now]
            self._again = [(at, writes) for at, writes in self._again if at > now]
            self.write(due)

    def _written(self, writes: Writes) -> None:
        """Kafka has everything, and the ledger has no part in it."""
        record = writes.record
        if writes.work is not None:  # S5: the copy carries the task from here on
            self._telemetry.tell(event_of("handed_off", writes.work))
        else:
            self._telemetry.tell(Event("dead_lettered", record.partition, record.offset, detail=writes.reason))
        writes.assignment.close(record.offset)

    # -- step 3 and 4 --------------------------------------------------------------------------------------------------

    def sealed(self, all_writes: Sequence[Writes], answers: Sequence[bool]) -> tuple[list[Work], list[Work]]:
        """Take the ledger's answers; return what is over, and what goes back to its claim (S2)."""
        over: list[Work] = []
        refused: list[Work] = []
        for writes, sealed in zip(all_writes, answers, strict=True):
            work = writes.work
            if work is None:
                raise AssertionError("only the outcome of a task is sealed")
            if sealed:
                over.append(work)
                self._tell_end(work, writes)
            else:
                refused.append(work)
                self._telemetry.tell(event_of("refused", work))
        return over, refused

    def _tell_end(self, work: Work, writes: Writes) -> None:
        outcome, where = writes.outcome, work.record
        if outcome is None or outcome.state is State.SCHEDULED:  # that was told when it was accepted
            return
        kind = "succeeded" if outcome.state is State.SUCCESS else "failed"
        if self._telemetry.wanted(kind):
            detail = f"{outcome.task_type}: {last_line(outcome.error_log)}" if kind == "failed" else ""
            self._telemetry.tell(Event(kind, where.partition, where.offset, outcome.task_id, outcome.attempts, detail))
        else:
            self._telemetry.counts[kind] += 1


def event_of(kind: str, work: Work, detail: str = "") -> Event:
    attempt = work.run.attempt if work.run is not None else 0
    return Event(kind, work.record.partition, work.record.offset, work.envelope.task_id, attempt, detail)


def accept_of(work: Work) -> Accept:
    """Settle, step 1."""
    verdict = work.verdict
    if verdict is None:
        raise AssertionError(f"task {work.envelope.task_id!r} has no verdict")
    wait_ms = round(verdict.wait_s * 1000) if verdict.state is State.SCHEDULED else 0
    return Accept(
        work.envelope.task_id,
        work.held.fence,
        verdict.state,
        wait_ms,
        verdict.failed,
        verdict.died,
        verdict.result,
        verdict.error_log,
    )


def seal_of(writes: Writes) -> Seal:
    """Settle, step 3."""
    if writes.outcome is None:
        raise AssertionError("only the outcome of a task is sealed")
    return Seal(writes.outcome.task_id, writes.outcome.fence)
