"""Who is at work, as the memory ledger knows it: the workers with their beats, and the producers with their runs.

One invariant: `Workers` answers like `beat.lua`, `leave.lua` and `workers.lua`, and `Runs` like `run.lua`.
"""

from dataclasses import dataclass, field, replace

from yadtq.layout import RUN_TTL_S
from yadtq.ledger.protocol import FORGET_MS, PRODUCER_LEASE_MS, Beat, Pulse, RunRecord, WorkerRecord


@dataclass(slots=True)
class Worker:
    record: WorkerRecord  # its status is the one last written
    lease_ms: int

    def age_ms(self, now: int) -> int:
        return now - self.record.last_heartbeat_ms


class Workers:
    """Every worker that has beaten."""

    def __init__(self) -> None:
        self.by_name: dict[str, Worker] = {}

    def beat(self, beat: Beat, now: int) -> Pulse:
        old = self.by_name.get(beat.name)
        if old and not beat.first:
            if old.record.incarnation != beat.incarnation:
                if old.record.incarnation != beat.replaces:
                    return Pulse.SUPERSEDED
            elif not self.alive(beat.name, beat.incarnation, now):
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
        self.by_name[beat.name] = Worker(record, beat.lease_ms)
        return Pulse.ALIVE

    def leave(self, name: str, incarnation: str) -> None:
        worker = self.by_name.get(name)
        if worker and worker.record.incarnation == incarnation:
            worker.record = replace(worker.record, status="DEAD", left=True)

    def look(self, allowed_ms: int, now: int, *, mark: bool) -> list[WorkerRecord]:
        answers = []
        for name, worker in sorted(self.by_name.items()):
            age = worker.age_ms(now)
            if mark and age > FORGET_MS:
                del self.by_name[name]
                continue
            dead = worker.record.left or age > (allowed_ms or worker.lease_ms)
            answer = replace(worker.record, status="DEAD" if dead else "ALIVE", age_ms=age)
            answers.append(answer)
            if mark:
                worker.record = answer
        return answers

    def alive(self, name: str, incarnation: str, now: int) -> bool:
        worker = self.by_name.get(name)
        return bool(
            worker
            and worker.record.incarnation == incarnation
            and not worker.record.left
            and worker.age_ms(now) <= worker.lease_ms
        )


@dataclass(slots=True)
class Producing:
    beat_ms: int
    ended: bool


@dataclass(slots=True)
class Producers:
    number: int = 0
    ended: bool = True
    producers: dict[str, Producing] = field(default_factory=dict)

    def record(self, now: int) -> RunRecord:
        # A producer that was killed does not hold up the end; one that gave `end` counts for ever.
        ending = any(producer.ended for producer in self.producers.values())
        waiting = any(not p.ended and now - p.beat_ms <= PRODUCER_LEASE_MS for p in self.producers.values())
        return RunRecord(self.number, self.ended, ending and not waiting)


class Runs:
    """The present run of each topic, all of them until some time after the last change."""

    def __init__(self) -> None:
        self._of_topics: dict[str, Producers] = {}
        self._expire_at_ms = 0

    def beat(self, topic: str, producer: str, now: int, *, ended: bool, left: bool, known: int) -> RunRecord:
        self._expire(now)
        run = self._of_topics.setdefault(topic, Producers())
        if run.number < known:  # a wipe took the run from under its producers
            run = self._of_topics[topic] = Producers(known, ended=False)
        if run.ended and not ended and not left:
            run = self._of_topics[topic] = Producers(run.number + 1, ended=False)
        if left:
            run.producers.pop(producer, None)
        elif not run.ended:
            run.producers[producer] = Producing(now, ended)
        self._changed(now)
        return run.record(now)

    def close(self, topic: str, number: int, now: int) -> None:
        self._expire(now)
        run = self._of_topics.get(topic)
        if run and run.number == number and not run.ended:
            run.ended = True
            self._changed(now)

    def look(self, now: int) -> dict[str, RunRecord]:
        self._expire(now)
        return {topic: run.record(now) for topic, run in self._of_topics.items()}

    def _changed(self, now: int) -> None:
        self._expire_at_ms = now + RUN_TTL_S * 1000

    def _expire(self, now: int) -> None:
        if now >= self._expire_at_ms:
            self._of_topics.clear()
