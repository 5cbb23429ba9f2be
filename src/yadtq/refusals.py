"""What Kafka refuses in `Q` for ever, when its time has come, ends FAILED with a dead letter.

One invariant: the verdict is the ledger's: a claim that says why nothing can run it (C5) decides under a fence of its
own, so it is one end among rivals. Its writes keep the order of S1: dead letter, outcome, each acknowledged, then the
seal; the tombstone comes last. What is not sealed stays in the index, so a crash between any two steps is repaired by
whoever has the partition next: its claim is answered with the same verdict, and all is written again (S3).
"""

import queue
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from yadtq.broker import Message, Producer, Record, Report, TopicPartition
from yadtq.codec import decode
from yadtq.heartbeat import Identity
from yadtq.layout import HEADER_KEY, HEADER_REASON, HEADER_SHA256, QueueTopics
from yadtq.ledger import Answer, Batch, Claim, Errand, Ledger, Over, Refusal, Seal, Stale
from yadtq.service import Clock
from yadtq.states import State
from yadtq.telemetry import Event, Telemetry
from yadtq.writes import dead_letter, last_line, messages_of, outcome_again, reference

AGAIN_S = 0.5
Phase = Literal["alone", "asking", "writing", "sealing"]


class Refused:
    """One envelope on its way to its end."""

    __slots__ = ("attempts", "envelope", "fence", "kept", "key", "message", "messages", "phase", "reason", "record")

    def __init__(self, where: TopicPartition, key: str, offset: int, message: Message) -> None:
        headers = {**message.headers, HEADER_KEY: message.key} if message.key is not None else message.headers
        value = message.value or b""
        # As it lies in `Q.delayed`, but for the key, which is that of its task and generation and nobody's order.
        self.record = Record(where.topic, where.partition, offset, value, headers=headers)
        self.key = key
        self.message = message  # for `Q`
        self.envelope = decode(value)
        self.phase: Phase = "alone"
        self.reason = ""
        self.messages: list[Message] = []  # still to be acknowledged, the first one now
        self.fence = ""
        self.attempts = 0
        self.kept = False  # its bytes stay in `Q.delayed`: its dead letter says where

    def keep(self, topics: QueueTopics) -> Message:
        """The same bytes under the same key, as what waits no more: they outlive compaction and are never fired."""
        headers = {**self.record.headers, HEADER_REASON: b"kept for its dead letter"}
        return Message(topics.delayed, self.record.value, self.key.encode(), self.record.partition, headers)

    def refer(self, topics: QueueTopics, offset: int) -> Message:
        """The dead letter that says where the bytes lie."""
        self.kept = True
        record = msgspec.structs.replace(self.record, offset=offset)
        return reference(dead_letter(record, topics, self.reason, self.envelope.task_id.encode()))


class Fate(NamedTuple):
    """What the scheduler has still to do about an envelope."""

    refused: Refused
    fired: Report | None = None  # sent alone it was taken
    over: bool = False  # sealed: it may leave the index


class Refusals:
    """The envelopes that were refused, of all partitions that this worker has or had. One thread owns it.

    Args:
        recover: Called when outcomes have to be read in first, with what has to be done.
    """

    def __init__(
        self,
        ledger: Ledger,
        producer: Producer,
        topics: QueueTopics,
        identity: Identity,
        telemetry: Telemetry,
        clock: Clock,
        recover: Callable[[Errand], None],
    ) -> None:
        self._ledger = ledger
        self._producer = producer
        self._topics = topics
        self._identity = identity
        self._telemetry = telemetry
        self._clock = clock
        self._recover = recover
        self._held: dict[tuple[TopicPartition, str], Refused] = {}
        self._flying: set[Refused] = set()
        self._reports: queue.SimpleQueue[list[tuple[Refused, Report]]] = queue.SimpleQueue()
        self._send_mono = 0.0
        self._ask_mono = 0.0

    def __contains__(self, place: tuple[TopicPartition, str]) -> bool:
        return place in self._held

    def add(self, where: TopicPartition, key: str, offset: int, message: Message) -> None:
        self._held.setdefault((where, key), Refused(where, key, offset, message))

    def turn(self) -> list[Fate]:
        """Do the next step of each. Raises LedgerUnavailable; everything stays where it is then."""
        fates = self._hear()
        now = self._clock.mono_s()
        if now >= self._send_mono:
            self._send()
        if now >= self._ask_mono:
            fates += self._ask()
        return fates

    def _of(self, phase: Phase) -> list[Refused]:
        return [each for each in self._held.values() if each.phase == phase]

    def _leave(self, refused: Refused) -> None:
        del self._held[refused.record.where, refused.key]

    # -- Kafka ---------------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Kafka refuses whole batches, so an envelope is tried alone, one at a time, before it is judged."""
        alone = self._of("alone")[:1]
        sending = [(each, each.message) for each in alone]
        sending += [(each, each.messages[0]) for each in self._of("writing")]
        sending = [(each, message) for each, message in sending if each not in self._flying]
        if sending:
            self._flying |= {each for each, _ in sending}
            self._producer.produce_batch(
                [message for _, message in sending], [at for at, _ in sending], self._reports.put
            )

    def _hear(self) -> list[Fate]:
        fates: list[Fate] = []
        while not self._reports.empty():
            for refused, report in self._reports.get_nowait():
                self._flying.discard(refused)
                if refused.phase == "writing":
                    self._written(refused, report)
                elif report.error is None:
                    self._leave(refused)
                    fates.append(Fate(refused, fired=report))
                elif report.too_large:
                    refused.phase = "asking"
                    refused.reason = f"Kafka does not take its envelope into {self._topics.tasks}: {report.error}"
                else:
                    self._failed(report)
        return fates

    def _written(self, refused: Refused, report: Report) -> None:
        first, topics = refused.messages[0], self._topics
        if report.error is None and first.topic == topics.delayed:
            refused.messages[0] = refused.refer(topics, report.offset)
        elif report.error is None:
            del refused.messages[0]
            if not refused.messages:
                refused.phase = "sealing"
        elif report.too_large and first.topic == topics.delayed:
            refused.messages[0] = refused.refer(topics, refused.record.offset)
        elif report.too_large and first.topic == topics.dead and HEADER_SHA256 not in first.headers:
            refused.messages[0] = refused.keep(topics)
        else:
            self._failed(report)

    def _failed(self, report: Report) -> None:
        self._telemetry.failed("Kafka", f"Kafka does not take a record: {report.error}")
        self._send_mono = self._clock.mono_s() + AGAIN_S

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def _ask(self) -> list[Fate]:
        sealing, asking = self._of("sealing"), self._of("asking")
        if not sealing and not asking:
            return []
        self._ask_mono = self._clock.mono_s() + AGAIN_S
        asking = self._to_be_judged(asking)
        batch = Batch(
            seals=[Seal(each.envelope.task_id, each.fence) for each in sealing],
            claims=[self._claim(each) for each in asking],
        )
        answers = self._ledger.exchange(self._topics.tasks, self._identity.name, self._identity.incarnation, batch)
        self._telemetry.answered("Redis")
        if answers.waiting:
            self._recover(Errand.REBUILD)
            return []
        fates: list[Fate] = []
        for each, sealed in zip(sealing, answers.seals, strict=True):
            if sealed:
                self._leave(each)
                self._tell_end(each)
                fates.append(Fate(each, over=True))
            else:  # S2: the claim knows what became of it
                each.phase = "asking"
        for each, answer in zip(asking, answers.claims, strict=True):
            self._answered(each, answer)
        return fates

    def _to_be_judged(self, asking: Sequence[Refused]) -> list[Refused]:
        """Without those that were in `Q` before, by a firing whose tombstone is missing: they end by themselves."""
        found = self._ledger.records([each.envelope.task_id for each in asking])
        carried = (State.QUEUED, State.PROCESSING)
        return [
            each
            for each, record in zip(asking, found, strict=True)
            if record is None or record.status not in carried or record.generation != each.envelope.generation
        ]

    def _claim(self, refused: Refused) -> Claim:
        envelope, record = refused.envelope, refused.record
        return Claim(
            envelope.task_id,
            f"refused/{record.partition}/{record.offset}",
            envelope.task_type,
            -1,  # it lies in no partition of Q
            -1,
            envelope.queued_at_ms,
            envelope.task_tries,
            envelope.max_attempts,
            refused.reason,
            envelope.generation,
        )

    def _answered(self, refused: Refused, answer: Answer) -> None:
        match answer:
            case Over(record) if not record.sealed:
                refused.phase, refused.fence, refused.attempts = "writing", record.fence, record.attempts
                refused.messages = messages_of(refused.record, outcome_again(record), self._topics)
            case Over() | Stale():
                self._leave(refused)  # the index says that it is over when it is looked at next (T1)
            case Refusal.UNREAD:
                self._recover(Errand.READ)
            case _:
                pass  # somebody has it, or this worker has to be reborn first: it is asked again

    def _tell_end(self, refused: Refused) -> None:
        envelope = refused.envelope
        detail = f"{envelope.task_type}: {last_line(refused.reason)}"
        self._telemetry.tell(Event("failed", task_id=envelope.task_id, attempt=refused.attempts, detail=detail))
