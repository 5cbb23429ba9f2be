"""Which records may run: each partition's lane, and what the ledger answered about its head.

One invariant: of one partition, one record at a time is claimed or runs; its successor's turn comes when its verdict is
accepted. A claim that was sent is asked again, with the same token, until it is answered (C2), and an answer RUN that
comes too late to be used is released (C1).
"""

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from yadtq.attempt import Attempt
from yadtq.broker import Record, TopicPartition
from yadtq.envelope import Envelope
from yadtq.intake import Assignment
from yadtq.ledger import Claim, Release, Run
from yadtq.retry import Verdict
from yadtq.task import Registry

_numbers = itertools.count(1)


@dataclass(eq=False, slots=True)
class Work:
    """One opened record on its way from the lane to its closed offset."""

    assignment: Assignment
    record: Record
    envelope: Envelope
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

    def attempt(self) -> Attempt:
        """What the runner is given."""
        envelope, run = self.envelope, self.held
        args, kwargs = bytes(envelope.task_args), bytes(envelope.task_kwargs)
        return Attempt(self.number, envelope.task_id, envelope.task_type, args, kwargs, run.attempt, run.fence)

    def release(self) -> Release:
        """Give the claim back (C1)."""
        return Release(self.envelope.task_id, self.held.fence)


def refusal(task_type: str, registry: Registry) -> str:
    """Say why this worker cannot run such a task; empty where it can."""
    if registry.get(task_type) is not None:
        return ""
    return f"unknown task {task_type!r}; this worker knows {', '.join(registry.names) or 'none'}"


class Lane:
    """The records of one partition that wait, and the one whose turn it is."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.waiting: deque[Work] = deque()
        self.head: Work | None = None  # claimed, running, or about to be claimed
        self.asked = False  # the head's claim is on its way or answered
        self.again_mono = 0.0  # not before

    def due(self, now_mono: float) -> Work | None:
        """The work to be claimed now."""
        if self.head is None and self.waiting:
            self.head, self.asked, self.again_mono = self.waiting.popleft(), False, 0.0
        if self.head is None or self.asked or now_mono < self.again_mono:
            return None
        return self.head


class Lanes:
    """All lanes of a worker, in the order in which they were assigned."""

    def __init__(self) -> None:
        self._lanes: dict[TopicPartition, Lane] = {}

    def add(self, assignment: Assignment) -> None:
        self._lanes[assignment.where] = Lane(assignment)

    def remove(self, assignment: Assignment) -> Work | None:
        """Forget a lane; return its head."""
        lane = self._find(assignment)
        if lane is None:
            return None
        del self._lanes[assignment.where]
        return lane.head

    def clear_waiting(self) -> None:
        """Forget what has not been claimed: another owner will read it again."""
        for lane in self._lanes.values():
            lane.waiting.clear()
            if not lane.asked:
                lane.head = None

    def arrive(self, work: Work) -> None:
        lane = self._find(work.assignment)
        if lane is not None:
            lane.waiting.append(work)

    def due(self, room: int, now_mono: float) -> list[Work]:
        """Take the heads whose turn it is, at most `room`, and count them as asked."""
        chosen: list[Work] = []
        for lane in list(self._lanes.values()):
            if len(chosen) >= room:
                break
            work = lane.due(now_mono)
            if work is not None:
                lane.asked = True
                chosen.append(work)
                self._lanes[lane.assignment.where] = self._lanes.pop(lane.assignment.where)  # to the end: a fair turn
        return chosen

    def next_mono(self) -> float | None:
        """When the next head is due, perhaps in the past; None where no lane has one."""
        heads = (
            lane for lane in self._lanes.values() if (lane.head or lane.waiting) and not (lane.head and lane.asked)
        )
        return min((lane.again_mono if lane.head else 0.0 for lane in heads), default=None)

    def done(self, work: Work) -> None:
        """The verdict on the head is accepted: the next one's turn."""
        lane = self._find(work.assignment)
        if lane is not None and lane.head is work:
            lane.head = None

    def again(self, works: Iterable[Work], at_mono: float) -> None:
        """Claim again from this time on; what belongs to an assignment that is over is forgotten."""
        for work in works:
            lane = self._find(work.assignment)
            if lane is None:
                continue
            if lane.head is not None and lane.head is not work:  # a seal was refused after the lane had moved on
                lane.waiting.appendleft(work)
                continue
            lane.head, lane.asked, lane.again_mono = work, False, at_mono

    def _find(self, assignment: Assignment) -> Lane | None:
        lane = self._lanes.get(assignment.where)
        return lane if lane is not None and lane.assignment is assignment else None
