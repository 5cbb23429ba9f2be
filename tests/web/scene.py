"""A queue with everything around it in memory, and a hand that does to tasks what a worker would do, step by step."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from opening import open_ledger
from yadtq import App
from yadtq.broker.memory import MemoryBroker
from yadtq.broker.protocol import Message
from yadtq.codec import OutcomeRecord, encode
from yadtq.ledger import Accept, Batch, Beat, Claim, NewTask, Run, Seal
from yadtq.ledger.memory import MemoryLedger
from yadtq.settings import Address, Settings
from yadtq.states import State

HOSTILE = "<script>alert('owned')</script><img src=x onerror=alert(1)>"
SETTINGS = Settings(Address("nowhere:1", "test"), Address("nowhere:2", "test"))


class TurnedClock:
    """The ledger's clock, turned by hand."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def mono_s(self) -> float:
        return time.monotonic() + self.ahead_ms / 1000


@dataclass
class Scene:
    """An app on memory ports."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    clock: TurnedClock = field(default_factory=TurnedClock)
    fences: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self.clock)
        open_ledger(self.ledger, "tasks")
        self.app = App("tasks", settings=SETTINGS, broker=self.broker, ledger=self.ledger)
        self.app.ensure_queue("tasks", 4)

        @self.app.task
        def add(a: int, b: int) -> int:
            """Add two numbers."""
            return a + b

        @self.app.task
        def greet(name: str, loud: bool = False, times: int = 1) -> str:
            """Greet somebody."""
            return name * times + "!" * loud

        @self.app.task
        def total(numbers: list[float]) -> float:
            """Sum a list."""
            return sum(numbers)

        self.add, self.greet, self.total = add, greet, total

    def beat(self, name: str, partitions: Sequence[int] = (0, 1, 2, 3), lease_ms: int = 10_000) -> None:
        beat = Beat(name, f"{name}-1", lease_ms, "tasks", tuple(partitions), "box", 4711, first=True)
        self.ledger.beat(beat)

    def leave(self, name: str) -> None:
        self.ledger.leave(name, f"{name}-1")

    def claim(self, task_id: str, worker: str) -> None:
        record = self.ledger.records([task_id])[0]
        assert record is not None
        claim = Claim(
            task_id,
            f"{task_id}-{record.attempts}",
            record.task_type,
            record.partition,
            record.offset,
            record.queued_at_ms or 0,
            0,
            3,
        )
        (answer,) = self.ledger.exchange("tasks", worker, f"{worker}-1", Batch(claims=[claim])).claims
        assert isinstance(answer, Run), answer
        self.fences[task_id] = answer.fence

    def finish(self, task_id: str, worker: str, *, result: str = "null", error_log: str | None = None) -> None:
        fence = self.fences[task_id]
        state = State.FAILED if error_log else State.SUCCESS
        data = None if error_log else result.encode()
        accept = Accept(task_id, fence, state, failed=bool(error_log), result=data, error_log=error_log)
        self.ledger.exchange("tasks", worker, f"{worker}-1", Batch(accepts=[accept]))
        record = self.ledger.records([task_id])[0]
        assert record is not None
        self.outcome(
            OutcomeRecord(
                task_id=task_id,
                task_type=record.task_type,
                state=state,
                attempts=record.attempts,
                fence=fence,
                result=msgspec.Raw(data or b"null"),
                error_log=error_log,
                worker=worker,
                queued_at_ms=record.queued_at_ms or 0,
                started_at_ms=record.started_at_ms,
                finished_at_ms=record.finished_at_ms,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )
        )
        self.ledger.exchange("tasks", worker, f"{worker}-1", Batch(seals=[Seal(task_id, fence)]))

    def run(self, task_id: str, worker: str, *, result: str = "null", error_log: str | None = None) -> None:
        self.claim(task_id, worker)
        self.finish(task_id, worker, result=result, error_log=error_log)

    def outcome(self, record: OutcomeRecord, queue: str = "tasks") -> None:
        self.broker.append(Message(f"{queue}.outcomes", encode(record), record.task_id.encode(), partition=0))

    def raw(self, value: bytes, partition: int = 0, topic: str = "tasks") -> None:
        self.broker.append(Message(topic, value, partition=partition))

    def publish_raw(self, task_id: str, task_type: str, value: bytes) -> None:
        """A task as some other program would publish it, with its QUEUED record."""
        report = self.broker.append(Message("tasks", value))
        self.ledger.queued([NewTask(task_id, task_type, "tasks", report.partition, report.offset, 1_000)])
