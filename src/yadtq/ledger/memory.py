"""A ledger in memory that answers like the scripts in Redis: for tests of everything above, with time turned by hand.

One invariant: it says nothing that Redis would not say; the contract suite runs on both and compares them move by
move. It dies with the process.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from yadtq.errors import LedgerUnavailable
from yadtq.layout import RUN_TTL_S
from yadtq.ledger.announcements import Announcements, Ear
from yadtq.ledger.protocol import (
    FORGET_MS,
    MAX_TAKEOVERS,
    PRODUCER_LEASE_MS,
    Accept,
    Answer,
    Answers,
    Batch,
    Beat,
    Claim,
    Elsewhere,
    NewTask,
    OnHeard,
    OnIds,
    Over,
    Pulse,
    Refusal,
    Release,
    Resend,
    Run,
    RunRecord,
    Seal,
    Stale,
    TaskRecord,
    WorkerRecord,
)
from yadtq.service import Clock, SystemClock
from yadtq.states import FINAL, State


@dataclass(slots=True)
class _Task:
    """A record and what users do not see of it."""

    record: TaskRecord
    takeovers: int = 0
    resend: bool = False  # a retry was accepted, and Kafka may not have it
    accepted_at_ms: int = 0  # of a retry: the time it waits for
    accepted: str = ""  # the fence whose verdict was accepted last
    incarnation: str = ""  # of the worker that holds it
    token: str = ""  # of the claim that holds it
    expires_at_ms: int | None = None

    def set(self, **changes: object) -> None:
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]  # the names are those of TaskRecord


@dataclass(slots=True)
class _Worker:
    record: WorkerRecord  # its status is the one last written
    lease_ms: int
    left: bool = False

    def age_ms(self, now: int) -> int:
        return now - self.record.last_heartbeat_ms


@dataclass(slots=True)
class _Producer:
    beat_ms: int
    ended: bool


@dataclass(slots=True)
class _Run:
    number: int = 0
    ended: bool = True
    producers: dict[str, _Producer] = field(default_factory=dict)

    def record(self, now: int) -> RunRecord:
        # A producer that was killed does not hold up the end; one that gave `end` counts for ever.
        ending = any(producer.ended for producer in self.producers.values())
        waiting = any(not p.ended and now - p.beat_ms <= PRODUCER_LEASE_MS for p in self.producers.values())
        return RunRecord(self.number, self.ended, ending and not waiting)


class MemoryLedger:
    """Claims, outcomes, heartbeats and runs.

    Set `down` to make every call fail as if Redis were gone, and `lose_replies` to let that many exchanges do their
    work and fail then, as when the connection breaks before the answer.
    """

    def __init__(self, clock: Clock | None = None, record_ttl_s: int = 86_400) -> None:
        self.down = False
        self.lose_replies = 0
        self._clock = clock or SystemClock()
        self._ttl_ms = record_ttl_s * 1000
        self._lock = threading.Lock()
        self._epochs: dict[str, int] = {}  # by topic
        self._read_until_ms: dict[str, int] = {}  # by topic
        self._tasks: dict[str, _Task] = {}
        self._workers: dict[str, _Worker] = {}
        self._runs: dict[str, _Run] = {}
        self._runs_expire_at_ms = 0
        self._announcements = Announcements()
        self._final: list[str] = []  # to be announced when the move is over

    def wipe(self) -> None:
        """Forget everything, as a Redis that lost its disk."""
        with self._lock:
            self._epochs.clear()
            self._read_until_ms.clear()
            self._tasks.clear()
            self._workers.clear()
            self._runs.clear()

    def forget_reading(self, topic: str) -> None:
        """Forget that the outcomes of this queue were read, as after half the life of a record."""
        with self._lock:
            self._read_until_ms.pop(topic, None)

    def expires_at_ms(self, task_id: str) -> int | None:
        """Say when a record goes; None: it stays."""
        with self._move() as now:
            task = self._task(task_id, now)
            return task.expires_at_ms if task else None

    def written_status(self, name: str) -> str:
        """Return the status of a worker as it was written last, not as it is by now."""
        with self._move():
            return self._workers[name].record.status

    @contextmanager
    def _move(self) -> Iterator[int]:
        """One atomic move; gives the time."""
        try:
            with self._lock:
                if self.down:
                    raise LedgerUnavailable("the memory ledger is down")
                yield self._clock.now_ms()
        finally:
            final, self._final = self._final, []
            if final:
                self._announcements.tell(final)

    def open(self, topic: str) -> None:
        with self._move() as now:
            self._epochs.setdefault(topic, now)
            self._read_until_ms[topic] = now + self._ttl_ms // 2

    def queued(self, tasks: Sequence[NewTask]) -> None:
        with self._move() as now:
            for new in tasks:
                if self._task(new.task_id, now) is None:
                    record = replace(_blank(new, new.topic), attempts=new.tries)
                    if new.not_before_ms:
                        record = replace(record, status=State.SCHEDULED, not_before_ms=new.not_before_ms)
                    self._tasks[new.task_id] = _Task(record)

    def listen(self, on_ids: OnIds, on_heard: OnHeard) -> Ear:
        return self._announcements.listen(on_ids, on_heard)

    def exchange(self, topic: str, worker: str, incarnation: str, batch: Batch) -> Answers:
        with self._move() as now:
            if topic not in self._epochs:
                return Answers(claims=[Refusal.WAIT] * len(batch.claims), waiting=True)
            seals = [self._seal(seal, now) for seal in batch.seals]
            for release in batch.releases:
                self._release(release, now)
            accepts = [self._accept(accept, now) for accept in batch.accepts]
            claims = self._claims(topic, worker, incarnation, batch.claims, now)
            if self.lose_replies:
                self.lose_replies -= 1
                raise LedgerUnavailable("the memory ledger lost its reply")
            return Answers(accepts, seals, claims)

    def _accept(self, accept: Accept, now: int) -> int | None:
        task = self._task(accept.task_id, now)
        if task is None or task.record.fence != accept.fence:
            return None
        if task.accepted == accept.fence:  # accepted before, and the answer was lost
            return task.accepted_at_ms
        if task.record.status is not State.PROCESSING:  # released: nothing of it can have run
            return None
        task.accepted, task.token = accept.fence, ""
        task.set(
            status=accept.state,
            result=accept.result or None,
            error_log=accept.error_log or None,
            failures=task.record.failures + accept.failed,
            deaths=task.record.deaths + accept.died,
        )
        task.accepted_at_ms = now + (accept.wait_ms if accept.state is State.SCHEDULED else 0)
        if accept.state is State.SCHEDULED:  # the next generation, in an envelope of its own
            task.resend = True
            task.set(generation=task.record.generation + 1, not_before_ms=task.accepted_at_ms)
        elif accept.state is not State.QUEUED:
            task.set(finished_at_ms=now)
        return task.accepted_at_ms

    def _seal(self, seal: Seal, now: int) -> bool:
        task = self._task(seal.task_id, now)
        if task is None or task.record.fence != seal.fence:
            return False
        if task.record.status is State.SCHEDULED:
            task.resend = False
            return True
        if task.record.status not in FINAL:
            return False
        task.set(sealed=True)
        self._final.append(seal.task_id)
        task.expires_at_ms = now + self._ttl_ms  # R1: only sealed records expire
        return True

    def _release(self, release: Release, now: int) -> None:
        task = self._task(release.task_id, now)
        if task and task.record.status is State.PROCESSING and task.record.fence == release.fence:
            task.token = task.incarnation = ""
            task.set(status=State.QUEUED, worker=None, attempts=task.record.attempts - 1)

    def _claims(self, topic: str, worker: str, incarnation: str, claims: Sequence[Claim], now: int) -> list[Answer]:
        if not self._alive(worker, incarnation, now):
            return [Refusal.DEAD] * len(claims)
        return [self._claim(topic, worker, incarnation, claim, now) for claim in claims]

    def _claim(self, topic: str, worker: str, incarnation: str, claim: Claim, now: int) -> Answer:
        task = self._task(claim.task_id, now)
        if task is None:
            read = now < self._read_until_ms.get(topic, 0)
            if not read and (claim.in_doubt or now - claim.queued_at_ms > self._ttl_ms):
                return Refusal.UNREAD  # C8, R5
            task = self._tasks[claim.task_id] = _Task(_blank(claim, topic))
        held = task.record
        if held.status in FINAL:
            return Over(held)
        if claim.generation < held.generation:  # C4: generations, never attempt numbers
            return Resend(held) if task.resend and claim.generation == held.generation - 1 else Stale()
        lost = ""
        if held.status is State.PROCESSING:
            if (task.token, held.worker, task.incarnation) == (claim.token, worker, incarnation):
                return Run(held.fence, held.attempts, held.failures, held.started_at_ms or now, deaths=held.deaths)
            if self._alive(held.worker or "", task.incarnation, now):
                return Elsewhere(held.worker or "")
            lost = held.worker or ""
        self._take(topic, task, claim, lost)
        reason = _over(task, claim, lost)
        if reason:
            return self._settle(task, reason, now)
        task.token, task.incarnation, task.resend = claim.token, incarnation, False
        attempt = task.record.attempts + 1
        task.set(status=State.PROCESSING, worker=worker, attempts=attempt, started_at_ms=now)
        return Run(task.record.fence, attempt, task.record.failures, now, lost, task.record.deaths)

    def _take(self, topic: str, task: _Task, claim: Claim, lost: str) -> None:
        counter = int(task.record.fence.rpartition(".")[2] or 0) + 1
        task.takeovers += bool(lost)
        task.set(
            fence=f"{self._epochs[topic]}.{counter}",
            attempts=max(task.record.attempts, claim.tries),
            failures=max(task.record.failures, claim.tries),
            task_type=claim.task_type,
            topic=topic,
            partition=claim.partition,
            offset=claim.offset,
            generation=claim.generation,
        )

    def _settle(self, task: _Task, reason: str, now: int) -> Over:
        task.accepted, task.token, task.accepted_at_ms = task.record.fence, "", now
        task.set(status=State.FAILED, error_log=reason, result=None, finished_at_ms=now)
        return Over(task.record)

    def _task(self, task_id: str, now: int) -> _Task | None:
        task = self._tasks.get(task_id)
        if task and task.expires_at_ms is not None and now >= task.expires_at_ms:
            del self._tasks[task_id]
            return None
        return task

    def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        with self._move() as now:
            found = [self._task(task_id, now) for task_id in task_ids]
            return [task.record if task else None for task in found]

    def beat(self, beat: Beat) -> Pulse:
        with self._move() as now:
            old = self._workers.get(beat.name)
            if old and not beat.first:
                if old.record.incarnation != beat.incarnation:
                    if old.record.incarnation != beat.replaces:
                        return Pulse.SUPERSEDED
                elif not self._alive(beat.name, beat.incarnation, now):
                    return Pulse.DEAD
            record = WorkerRecord(
                name=beat.name,
                status="ALIVE",
                last_heartbeat_ms=now,
                age_ms=0,
                incarnation=beat.incarnation,
                topic=beat.topic,
                partitions=tuple(sorted(beat.partitions)),
                host=beat.host,
                pid=beat.pid,
                order=beat.order,
            )
            self._workers[beat.name] = _Worker(record, beat.lease_ms)
            return Pulse.ALIVE

    def leave(self, name: str, incarnation: str) -> None:
        with self._move():
            worker = self._workers.get(name)
            if worker and worker.record.incarnation == incarnation:
                worker.left = True
                worker.record = replace(worker.record, status="DEAD")

    def workers(self, allowed_ms: int = 0, *, mark: bool = False) -> list[WorkerRecord]:
        with self._move() as now:
            answers = []
            for name, worker in sorted(self._workers.items()):
                age = worker.age_ms(now)
                if mark and age > FORGET_MS:
                    del self._workers[name]
                    continue
                dead = worker.left or age > (allowed_ms or worker.lease_ms)
                answer = replace(worker.record, status="DEAD" if dead else "ALIVE", age_ms=age)
                answers.append(answer)
                if mark:
                    worker.record = answer
            return answers

    def _alive(self, name: str, incarnation: str, now: int) -> bool:
        worker = self._workers.get(name)
        return bool(
            worker
            and worker.record.incarnation == incarnation
            and not worker.left
            and worker.age_ms(now) <= worker.lease_ms
        )

    def run_beat(
        self, topic: str, producer: str, *, ended: bool = False, left: bool = False, known: int = 0
    ) -> RunRecord:
        with self._run_move() as now:
            run = self._runs.setdefault(topic, _Run())
            if run.number < known:  # a wipe took the run from under its producers
                run = self._runs[topic] = _Run(known, ended=False)
            if run.ended and not ended and not left:
                run = self._runs[topic] = _Run(run.number + 1, ended=False)
            if left:
                run.producers.pop(producer, None)
            elif not run.ended:
                run.producers[producer] = _Producer(now, ended)
            self._runs_expire_at_ms = now + RUN_TTL_S * 1000
            return run.record(now)

    def run_close(self, topic: str, number: int) -> None:
        with self._run_move() as now:
            run = self._runs.get(topic)
            if run and run.number == number and not run.ended:
                run.ended = True
                self._runs_expire_at_ms = now + RUN_TTL_S * 1000

    def runs(self) -> dict[str, RunRecord]:
        with self._run_move() as now:
            return {topic: run.record(now) for topic, run in self._runs.items()}

    @contextmanager
    def _run_move(self) -> Iterator[int]:
        with self._move() as now:
            if now >= self._runs_expire_at_ms:
                self._runs.clear()
            yield now

    def close(self) -> None:
        """Nothing to close."""


def _blank(task: NewTask | Claim, topic: str) -> TaskRecord:
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


def _over(task: _Task, claim: Claim, lost: str) -> str:
    """Say why a claimed task ends here and does not run (C5), or nothing."""
    if claim.refusal:
        return claim.refusal
    if task.record.failures >= claim.max_attempts:
        why = f"no attempt is left: {task.record.failures} of {claim.max_attempts} were made before"
        return task.record.error_log or why
    if task.takeovers > MAX_TAKEOVERS:
        return f"its workers were lost {task.takeovers} times while it ran; the last one was {lost}"
    return ""
