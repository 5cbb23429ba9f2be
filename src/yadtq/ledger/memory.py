"""A ledger in memory that answers like the scripts in Redis: for tests of everything above, with time turned by hand.

One invariant: it says nothing that Redis would not say; the contract suite runs on both and compares them move by
move. It dies with the process.
"""

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec import structs

from yadtq.codec import OutcomeRecord
from yadtq.errors import LedgerUnavailable
from yadtq.ledger.announcements import Announcements, Ear
from yadtq.ledger.due import Waiting
from yadtq.ledger.made import Made
from yadtq.ledger.memory_due import Index, MemoryDueIndex
from yadtq.ledger.memory_life import Life, Seen
from yadtq.ledger.memory_staff import Runs, Workers
from yadtq.ledger.memory_task import Task, blank, held, numbers_of, over, restored
from yadtq.ledger.protocol import (
    Accept,
    Answer,
    Answers,
    Batch,
    Beat,
    Claim,
    Elsewhere,
    Errand,
    Held,
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

Indexes = dict[tuple[str, int], Index]
Snapshot = tuple[dict[str, Life], dict[str, Task], Workers, Runs, Indexes]


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
        self._lives: dict[str, Life] = {}  # by topic
        self._seen: dict[tuple[str, str], Seen] = {}  # R2: what each worker knows of a topic; no part of the store
        self._tasks: dict[str, Task] = {}
        self._workers = Workers()
        self._runs = Runs()
        self._announcements = Announcements()
        self._final: list[str] = []  # to be announced when the move is over
        self.due = MemoryDueIndex(self._move, self._is_open, self._record, self._schedule, self._fired)

    def wipe(self) -> None:
        """Forget everything, as a Redis that lost its disk."""
        with self._lock:
            self._lives.clear()
            self._tasks.clear()
            self._workers, self._runs = Workers(), Runs()
            self.due.wipe()

    def forget_reading(self, topic: str) -> None:
        """Forget that the outcomes of this queue were read, as after half the life of a record."""
        with self._lock:
            self._life(topic).read_until_ms = 0

    def forget_writes(self, topic: str) -> None:
        """Forget how many calls were answered, as after the loss of writes."""
        with self._lock:
            self._life(topic).writes.clear()

    def snapshot(self) -> "Snapshot":
        """Keep all that the store holds now."""
        with self._lock:
            return copy.deepcopy((self._lives, self._tasks, self._workers, self._runs, self.due.indexes))

    def roll_back(self, snapshot: "Snapshot") -> None:
        """Lose every write since then, as a Redis that was started again without the tail of its log."""
        with self._lock:
            self._lives, self._tasks, self._workers, self._runs, self.due.indexes = copy.deepcopy(snapshot)

    def expires_at_ms(self, task_id: str) -> int | None:
        """Say when a record goes; None: it stays."""
        with self._move() as now:
            task = self._task(task_id, now)
            return task.expires_at_ms if task else None

    def written_status(self, name: str) -> str:
        """Return the status of a worker as it was written last, not as it is by now."""
        with self._move():
            return self._workers.by_name[name].record.status

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

    def _life(self, topic: str) -> Life:
        return self._lives.setdefault(topic, Life())

    def _is_open(self, topic: str) -> bool:
        return self._life(topic).epoch > 0

    def register(self, topic: str, worker: str, incarnation: str, attempts: Sequence[Held]) -> int | None:
        with self._move() as now:
            life = self._life(topic)
            if life.epoch:
                return None
            for attempt in attempts:
                task = self._task(attempt.task_id, now)
                fence, ended = (task.record.fence, task.record.status in FINAL) if task else ("", False)
                if not ended and numbers_of(fence) < numbers_of(attempt.fence):
                    self._tasks[attempt.task_id] = held(attempt, topic, worker, incarnation)
            return life.wait(now)

    def take(self, topic: str, token: str, least_ms: int) -> Errand:
        with self._move() as now:
            return self._life(topic).take(token, least_ms, now)

    def allot(self, topic: str, token: str, floor: int) -> int | None:
        with self._move() as now:
            return self._life(topic).allot(token, floor, now)

    def restore(
        self, topic: str, token: str, outcomes: Sequence[OutcomeRecord], *, absent_only: bool = False
    ) -> int | None:
        with self._move() as now:
            life = self._life(topic)
            if not life.batch(token, now):
                return None
            return sum(self._restore(life, outcome, absent_only, now) for outcome in outcomes)

    def _restore(self, life: Life, outcome: OutcomeRecord, absent_only: bool, now: int) -> bool:
        task, final = self._task(outcome.task_id, now), outcome.state in FINAL
        counts = final and task is None if absent_only else task is None or task.gives_way(outcome)
        whole_ms = now + self._ttl_ms
        least_ms = whole_ms
        if counts:
            self._tasks[outcome.task_id] = made = restored(outcome)
            if final:
                in_part = outcome.finished_at_ms and not outcome.generation and not absent_only
                least_ms = min((outcome.finished_at_ms or 0) + self._ttl_ms, whole_ms) if in_part else whole_ms
                made.expires_at_ms = least_ms
            if least_ms <= now:
                del self._tasks[outcome.task_id]
        elif final and task is not None and task.expires_at_ms is not None:
            task.expires_at_ms = whole_ms if absent_only else task.expires_at_ms
            least_ms = task.expires_at_ms
        life.least_ms = min(least_ms, life.least_ms or least_ms)
        return counts and least_ms > now

    def open(self, topic: str, token: str, epoch: int, batches: int) -> bool:
        with self._move() as now:
            return self._life(topic).open(token, epoch, batches, now, self._ttl_ms // 2)

    def drop(self, topic: str, token: str) -> None:
        with self._move():
            self._life(topic).drop(token)

    def queued(self, tasks: Sequence[NewTask]) -> None:
        with self._move() as now:
            for new in tasks:
                if self._task(new.task_id, now) is None:
                    record = structs.replace(blank(new, new.topic), attempts=new.tries)
                    if new.not_before_ms:
                        record = structs.replace(record, status=State.SCHEDULED, not_before_ms=new.not_before_ms)
                    self._tasks[new.task_id] = Task(record)

    def _schedule(self, waiting: Waiting, now: int) -> None:
        task = waiting.task
        read = now < self._life(task.topic).read_until_ms
        if self._task(task.task_id, now) is None and (read or now - task.queued_at_ms <= self._ttl_ms):  # C8
            self._tasks[task.task_id] = Task(
                structs.replace(
                    blank(task, task.topic),
                    status=State.SCHEDULED,
                    attempts=task.tries,
                    generation=waiting.generation,
                    not_before_ms=task.not_before_ms,
                )
            )

    def _fired(self, task_id: str, generation: int, now: int) -> None:
        task = self._task(task_id, now)
        if task and task.record.status is State.SCHEDULED and task.record.generation == generation and not task.resend:
            task.accepted = ""  # an accept of its retry that comes again is refused: the claim knows more
            task.set(status=State.QUEUED)

    def listen(self, on_ids: OnIds, on_heard: OnHeard) -> Ear:
        return self._announcements.listen(on_ids, on_heard)

    def exchange(self, topic: str, worker: str, incarnation: str, batch: Batch) -> Answers:
        return self.ask(topic, worker, incarnation, batch).answers()

    def ask(self, topic: str, worker: str, incarnation: str, batch: Batch) -> Made:
        return Made(self._exchange(topic, worker, incarnation, batch))

    def _exchange(self, topic: str, worker: str, incarnation: str, batch: Batch) -> Answers:
        with self._move() as now:
            seen = self._life(topic).call(worker, self._seen.get((worker, topic), (0, 0)))
            if seen is None:
                return Answers(claims=[Refusal.WAIT] * len(batch.claims), waiting=True)
            epoch = seen[0]
            seals = [self._seal(seal, epoch, now) for seal in batch.seals]
            for release in batch.releases:
                self._release(release, now)
            accepts = [self._accept(accept, epoch, now) for accept in batch.accepts]
            claims = self._claims(topic, worker, incarnation, batch.claims, now)
            if self.lose_replies:
                self.lose_replies -= 1
                raise LedgerUnavailable("the memory ledger lost its reply")
            self._seen[worker, topic] = seen
            return Answers(accepts, seals, claims, epoch=epoch)

    def _accept(self, accept: Accept, epoch: int, now: int) -> int | None:
        task = self._task(accept.task_id, now)
        if task is None:
            return None
        settled = task.accepted == task.record.fence
        if task.record.fence != accept.fence and not (settled and task.was(accept.fence)):
            return None
        if settled:  # accepted before, and the answer was lost
            if task.record.sealed or (task.record.status is State.SCHEDULED and not task.resend):
                return None  # Kafka has it too: the claim says so
            if task.record.status is not State.QUEUED:
                task.renew(epoch)
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
        if accept.state is not State.QUEUED:
            task.renew(epoch)
        return task.accepted_at_ms

    def _seal(self, seal: Seal, epoch: int, now: int) -> bool:
        task = self._task(seal.task_id, now)
        if task is None or not task.may_seal(seal, epoch):
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
        if not self._workers.alive(worker, incarnation, now):
            return [Refusal.DEAD] * len(claims)
        return [self._claim(topic, worker, incarnation, claim, now) for claim in claims]

    def _claim(self, topic: str, worker: str, incarnation: str, claim: Claim, now: int) -> Answer:
        task = self._task(claim.task_id, now)
        if task is None:
            read = now < self._life(topic).read_until_ms
            if not read and (claim.in_doubt or now - claim.queued_at_ms > self._ttl_ms):
                return Refusal.UNREAD  # C8, R5
            task = self._tasks[claim.task_id] = Task(blank(claim, topic))
        record = task.record
        if record.status in FINAL:
            if not record.sealed:
                task.renew(self._life(topic).epoch)
            return Over(task.record)
        if claim.generation < record.generation:  # C4: generations, never attempt numbers
            if not task.resend or claim.generation != record.generation - 1:
                return Stale()
            task.renew(self._life(topic).epoch)
            return Resend(task.record)
        lost = ""
        if record.status is State.PROCESSING:
            if (task.token, record.worker, task.incarnation) == (claim.token, worker, incarnation):
                return Run(
                    record.fence, record.attempts, record.failures, record.started_at_ms or now, deaths=record.deaths
                )
            if self._workers.alive(record.worker or "", task.incarnation, now):
                return Elsewhere(record.worker or "")
            lost = record.worker or ""
        self._take(topic, task, claim, lost)
        reason = over(task, claim, lost)
        if reason:
            return self._settle(task, reason, now)
        task.token, task.incarnation, task.resend = claim.token, incarnation, False
        attempt = task.record.attempts + 1
        task.set(status=State.PROCESSING, worker=worker, attempts=attempt, started_at_ms=now)
        return Run(task.record.fence, attempt, task.record.failures, now, lost, task.record.deaths)

    def _take(self, topic: str, task: Task, claim: Claim, lost: str) -> None:
        counter = int(task.record.fence.rpartition(".")[2] or 0) + 1
        task.takeovers += bool(lost)
        task.set(
            fence=f"{self._life(topic).epoch}.{counter}",
            attempts=max(task.record.attempts, claim.tries),
            failures=max(task.record.failures, claim.tries),
            task_type=claim.task_type,
            topic=topic,
            partition=claim.partition,
            offset=claim.offset,
            generation=claim.generation,
        )

    def _settle(self, task: Task, reason: str, now: int) -> Over:
        task.accepted, task.token, task.accepted_at_ms = task.record.fence, "", now
        task.set(status=State.FAILED, error_log=reason, result=None, finished_at_ms=now)
        return Over(task.record)

    def _task(self, task_id: str, now: int) -> Task | None:
        task = self._tasks.get(task_id)
        if task and task.expires_at_ms is not None and now >= task.expires_at_ms:
            del self._tasks[task_id]
            return None
        return task

    def _record(self, task_id: str, now: int) -> TaskRecord | None:
        task = self._task(task_id, now)
        return task.record if task else None

    def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        with self._move() as now:
            return [self._record(task_id, now) for task_id in task_ids]

    def beat(self, beat: Beat) -> Pulse:
        with self._move() as now:
            return self._workers.beat(beat, now)

    def leave(self, name: str, incarnation: str) -> None:
        with self._move():
            self._workers.leave(name, incarnation)

    def workers(self, allowed_ms: int = 0, *, mark: bool = False) -> list[WorkerRecord]:
        with self._move() as now:
            return self._workers.look(allowed_ms, now, mark=mark)

    def run_beat(
        self, topic: str, producer: str, *, ended: bool = False, left: bool = False, known: int = 0
    ) -> RunRecord:
        with self._move() as now:
            return self._runs.beat(topic, producer, now, ended=ended, left=left, known=known)

    def run_close(self, topic: str, number: int) -> None:
        with self._move() as now:
            self._runs.close(topic, number, now)

    def runs(self) -> dict[str, RunRecord]:
        with self._move() as now:
            return self._runs.look(now)

    def close(self) -> None:
        """Nothing to close."""
