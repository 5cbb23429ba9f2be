"""What stands between a simulated worker and its ports: it tells the books, and it breaks where it is told to.

Every call of a port is two points, one before and one after the port has done its work. `Faults.at` is asked at each;
it may raise `Crashed` (the process is gone) or say that the call fails.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from books import Books
from obedient import WatchedProducer

from yadtq.broker import Message, OnReports, Record, Report, TopicPartition
from yadtq.broker.memory import MemoryBroker, MemoryConsumer, MemoryReader
from yadtq.broker.protocol import Listener
from yadtq.codec import OutcomeRecord
from yadtq.errors import BrokerUnavailable, LedgerUnavailable
from yadtq.layout import HEADER_MARKER, QueueTopics
from yadtq.ledger import Answers, Batch, DueIndex, Errand, Held, Question
from yadtq.ledger.made import Made
from yadtq.ledger.memory import MemoryLedger
from yadtq.ledger.protocol import Meanwhile
from yadtq.offsets import Position

T = TypeVar("T")
P = ParamSpec("P")


class Crashed(BaseException):
    """The process is gone: nothing of it goes on."""


class Faults:
    """Breaks nothing. Subclasses do."""

    def at(self, point: str) -> bool:
        """Say whether the call fails here."""
        return False


class ToLedger:
    """A worker's way to the ledger; what it has no word for goes straight on."""

    def __init__(self, ledger: MemoryLedger, books: Books, faults: Faults) -> None:
        self._ledger = ledger
        self._books = books
        self._faults = faults

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)

    @property
    def due(self) -> "ToIndex":
        return ToIndex(self._ledger.due, self._faults)

    # The rebuild: each of its steps at the ledger is a point of its own name.

    def register(self, topic: str, worker: str, incarnation: str, attempts: Sequence[Held]) -> int | None:
        return self._step("register", self._ledger.register, topic, worker, incarnation, attempts)

    def take(self, topic: str, token: str, least_ms: int) -> Errand:
        return self._step("take", self._ledger.take, topic, token, least_ms)

    def allot(self, topic: str, token: str, floor: int) -> int | None:
        return self._step("allot", self._ledger.allot, topic, token, floor)

    def restore(
        self, topic: str, token: str, outcomes: Sequence[OutcomeRecord], *, absent_only: bool = False
    ) -> int | None:
        return self._step("restore", self._ledger.restore, topic, token, outcomes, absent_only=absent_only)

    def open(self, topic: str, token: str, epoch: int, batches: int) -> bool:
        return self._step("open", self._ledger.open, topic, token, epoch, batches)

    def drop(self, topic: str, token: str) -> None:
        self._step("drop", self._ledger.drop, topic, token)

    def _step(self, what: str, move: Callable[P, T], *arguments: P.args, **names: P.kwargs) -> T:
        if self._faults.at(f"before {what}"):
            raise LedgerUnavailable("it did not get there")
        answer = move(*arguments, **names)
        if self._faults.at(f"after {what}"):
            raise LedgerUnavailable("the reply was lost")
        return answer

    def exchange(self, topic: str, worker: str, incarnation: str, batch: Batch) -> Answers:
        return self.ask(topic, worker, incarnation, batch).answers()

    def ask(self, topic: str, worker: str, incarnation: str, batch: Batch) -> Question:
        what = "+".join(name for name in ("accepts", "seals", "releases", "claims") if getattr(batch, name))
        if self._faults.at(f"before {what}"):
            raise LedgerUnavailable("it did not get there")
        answers = self._ledger.exchange(topic, worker, incarnation, batch)
        if not answers.waiting:
            self._note(batch, answers)
        return Made(answers) if not self._faults.at(f"after {what}") else Lost()

    def _note(self, batch: Batch, answers: Answers) -> None:
        self._books.settled(batch.accepts, answers.accepts)
        self._books.claimed([claim.task_id for claim in batch.claims], answers.claims)
        together = (batch.accepts, batch.seals, batch.releases, batch.claims)
        task_ids = {move.task_id for moves in together for move in moves}
        self._books.touched(self._ledger.records(sorted(task_ids)))


class Lost:
    """A batch whose moves were made, and whose answers got lost."""

    def answers(self, meanwhile: Meanwhile | None = None) -> Answers:
        while meanwhile is not None and meanwhile():
            continue
        raise LedgerUnavailable("the reply was lost")


class ToIndex:
    """A worker's way to the index of what waits for a time."""

    def __init__(self, index: DueIndex, faults: Faults) -> None:
        self._index = index
        self._faults = faults

    def __getattr__(self, name: str) -> object:
        def ask(*arguments: object) -> object:
            if self._faults.at(f"before index {name}"):
                raise LedgerUnavailable("it did not get there")
            answer = getattr(self._index, name)(*arguments)
            if self._faults.at(f"after index {name}"):
                raise LedgerUnavailable("the reply was lost")
            return answer

        return ask


class ToKafka(WatchedProducer):
    """A worker's way to Kafka: message by message, each with its report."""

    def __init__(self, broker: MemoryBroker, topics: QueueTopics, faults: Faults) -> None:
        super().__init__(broker)
        self._faults = faults
        self._names = {
            topics.outcomes: "outcome", topics.dead: "dead letter", topics.delayed: "retry", topics.tasks: "envelope",
        }  # fmt: skip

    def produce_batch(self, messages: Sequence[Message], tags: Sequence[T], on_reports: OnReports[T]) -> None:
        for message, tag in zip(messages, tags, strict=True):
            what = self._name_of(message)
            if self._faults.at(f"before {what}"):
                on_reports([(tag, Report("it did not get there"))])
                continue

            def report(report: Report, tag: T = tag, what: str = what) -> None:
                lost = report.error is None and self._faults.at(f"after {what}")
                on_reports([(tag, Report("no report in time") if lost else report)])

            self.produce(message, report)

    def _name_of(self, message: Message) -> str:
        if HEADER_MARKER in message.headers:
            return "marker"
        return self._names[message.topic] if message.value is not None else "tombstone"


class ToOutcomes:
    """A rebuilder's way to what Kafka has; what it has no word for goes straight on."""

    def __init__(self, broker: MemoryBroker, faults: Faults) -> None:
        self._broker = broker
        self._faults = faults

    def __getattr__(self, name: str) -> object:
        return getattr(self._broker, name)

    def reader(self) -> "Reading":
        return Reading(self._broker, self._faults)


class Reading(MemoryReader):
    """One reading of outcomes."""

    def __init__(self, broker: MemoryBroker, faults: Faults) -> None:
        super().__init__(broker)
        self._faults = faults

    def poll(self, timeout_s: float, most: int) -> list[Record]:
        if self._faults.at("before read"):
            raise BrokerUnavailable("it did not get there")
        records = super().poll(timeout_s, most)
        if self._faults.at("after read"):
            raise BrokerUnavailable("the answer was lost")
        return records


class ToGroup:
    """A worker's membership."""

    def __init__(self, consumer: MemoryConsumer, listener: Listener, faults: Faults) -> None:
        self._consumer = consumer
        self._listener = listener
        self._faults = faults

    def __getattr__(self, name: str) -> object:
        return getattr(self._consumer, name)

    def commit(self, positions: Mapping[TopicPartition, Position], *, wait: bool) -> None:
        if self._faults.at("before commit"):
            self._listener.committed(positions, "it did not get there")
            return
        self._consumer.commit(positions, wait=wait)
        self._faults.at("after commit")
