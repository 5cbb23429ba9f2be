"""Settle against a naive model: whatever is refused, lost, late or too large, each verdict takes its steps in order,
each step once it is sure of the one before, and is in one place at any time."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stage import QUEUE

from waiting import ManualClock
from yadtq.broker import Message, OnReports, Record, Report, TopicPartition
from yadtq.broker.protocol import T
from yadtq.claim import Work
from yadtq.envelope import Envelope
from yadtq.intake import Assignment
from yadtq.layout import HEADER_SHA256, Layout
from yadtq.ledger import Run
from yadtq.offsets import Position
from yadtq.retry import Verdict
from yadtq.settle import WRITE_AGAIN_S, Reported, Settler
from yadtq.states import State
from yadtq.telemetry import Telemetry
from yadtq.writes import Writes, writes_of_copy, writes_of_undecodable

TOPICS = Layout().queue(QUEUE)
ACCEPT, SEAL = "accept", "seal"
# What a verdict has to go through; the topics stand for a message that Kafka has to acknowledge.
STEPS = {
    State.SUCCESS: [ACCEPT, TOPICS.outcomes, SEAL],
    State.FAILED: [ACCEPT, TOPICS.dead, TOPICS.outcomes, SEAL],
    State.SCHEDULED: [ACCEPT, TOPICS.delayed, TOPICS.outcomes, SEAL],
    State.QUEUED: [ACCEPT],
}
OTHERS = {"copy": [TOPICS.tasks], "undecodable": [TOPICS.dead]}


class SlowKafka:
    """Keeps what it is given until the test answers."""

    def __init__(self) -> None:
        self.pending: list[tuple[Writes, Message]] = []

    def produce_batch(self, messages: Sequence[Message], tags: Sequence[T], on_reports: OnReports[T]) -> None:
        self.pending += zip(tags, messages, strict=True)  # type: ignore[arg-type]


class Settling(RuleBasedStateMachine):
    """The model: of each record, by its offset, the steps that are still to come. No step: it is closed, or claimed
    again."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.kafka = SlowKafka()
        inbox: list[Reported] = []
        self.settler = Settler(self.kafka, TOPICS, "w", Telemetry(), self.clock, inbox.append)  # type: ignore[arg-type]
        self.assignment = Assignment(TopicPartition(TOPICS.tasks, 0), Position(0, ""))
        self.left: dict[int, list[str]] = {}
        self.open: set[int] = set()  # records that are not closed
        self.back: set[int] = set()  # claimed again
        self.number = 0

    def arrive(self, kind: State | str, steps: list[str]) -> Record:
        record = Record(TOPICS.tasks, 0, self.number, b"{}", None, {}, 0)
        self.number += 1
        self.assignment.open([record])
        self.open.add(record.offset)
        self.left[record.offset] = list(steps)
        return record

    def work_of(self, record: Record) -> Work:
        work = Work(self.assignment, record, Envelope(task_id=f"t{record.offset}", task_type="add"))
        work.run = Run(f"1.{record.offset + 1}", 1, 0, 0)
        return work

    @rule(state=st.sampled_from(list(STEPS)))
    def finish(self, state: State) -> None:
        work = self.work_of(self.arrive(state, STEPS[state]))
        self.settler.finished(work, Verdict(state, result=b"1", error_log="boom", wait_s=3.0))

    @rule(kind=st.sampled_from(list(OTHERS)))
    def write(self, kind: str) -> None:
        record = self.arrive(kind, OTHERS[kind])
        if kind == "copy":
            self.settler.write([writes_of_copy(self.work_of(record))])
        else:
            self.settler.write([writes_of_undecodable(self.assignment, record, TOPICS, "no envelope")])

    @rule(data=st.data(), lost=st.booleans())
    def exchange(self, data: st.DataObject, lost: bool) -> None:
        """The ledger answers each question; a lost answer leaves all as it is."""
        settler = self.settler
        if lost:
            return
        accepting, settler.accepting = settler.accepting, []
        sealing, settler.sealing = settler.sealing, []
        yes = data.draw(st.lists(st.booleans(), min_size=len(accepting), max_size=len(accepting)))
        done, back = settler.accepted(accepting, [5 if at else None for at in yes], 1)
        for work, accepted in zip(accepting, yes, strict=True):
            self.step(work.record.offset, ACCEPT)
            if not accepted:
                self.left[work.record.offset] = []
            assert (work in done) == bool(self.left[work.record.offset])
        self.take_back([work for work, _ in back])
        yes = data.draw(st.lists(st.booleans(), min_size=len(sealing), max_size=len(sealing)))
        over, refused = settler.sealed(sealing, yes)
        for writes, sealed in zip(sealing, yes, strict=True):
            self.step(writes.record.offset, SEAL)
            assert (writes.work in over, writes.work in refused) == (sealed, not sealed)
        for work in over:
            work.assignment.close(work.record.offset)
            self.open.discard(work.record.offset)
        self.take_back(refused)

    def take_back(self, works: list[Work]) -> None:
        offsets = {work.record.offset for work in works}
        assert not any(self.left[offset] for offset in offsets)
        self.back |= offsets

    def step(self, offset: int, name: str) -> None:
        assert self.left[offset][:1] == [name], f"{name} is not what comes next: {self.left[offset]}"
        del self.left[offset][0]

    @precondition(lambda self: self.kafka.pending)
    @rule(
        data=st.data(),
        answer=st.sampled_from(["taken", "taken", "taken", "no report", "too large"]),
        many=st.booleans(),
    )
    def report(self, data: st.DataObject, answer: str, many: bool) -> None:
        """Kafka answers some of what was sent, in any order."""
        pending = self.kafka.pending
        count = data.draw(st.integers(1, len(pending))) if many else 1
        chosen = data.draw(st.permutations(pending))[:count]
        self.kafka.pending = [each for each in pending if not any(each is other for other in chosen)]
        report = {
            "taken": Report(None, 0, 0),
            "no report": Report("timed out"),
            "too large": Report("too large", refused=True, too_large=True),
        }[answer]
        for writes, message in chosen:
            if answer == "taken":
                self.step(writes.record.offset, message.topic)
                if not self.left[writes.record.offset]:  # nothing to seal
                    self.open.discard(writes.record.offset)
        self.settler.reported([(writes, report) for writes, _ in chosen])

    @rule()
    def wait(self) -> None:
        self.clock.turn(int(WRITE_AGAIN_S * 1000))
        self.settler.send_again()
        assert not self.settler.times

    @invariant()
    def each_is_in_one_place(self) -> None:
        settler = self.settler
        at_kafka = [writes.record.offset for writes, _ in self.kafka.pending]
        again = [writes.record.offset for _, writes in settler._again]
        places = {
            ACCEPT: [work.record.offset for work in settler.accepting],
            SEAL: [writes.record.offset for writes in settler.sealing],
        }
        for name, offsets in places.items():
            assert sorted(offsets) == [offset for offset, left in self.left.items() if left[:1] == [name]]
        writing = [offset for offset, left in self.left.items() if left and left[0] not in places]
        assert sorted([*at_kafka, *again]) == writing
        assert settler.idle == (not any(self.left.values()))

    @invariant()
    def kafka_is_sent_what_comes_next(self) -> None:
        for writes, message in self.kafka.pending:
            assert message.topic == self.left[writes.record.offset][0]
            assert message.topic != TOPICS.dead or message.value or HEADER_SHA256 in message.headers

    @invariant()
    def what_is_closed_has_taken_all_its_steps(self) -> None:
        assert self.assignment.unfinished == len(self.open)
        assert {offset for offset, left in self.left.items() if left} | self.back == self.open

    def teardown(self) -> None:
        """When everything answers again, everything comes to its end."""
        for _ in range(5):
            self.wait()
            pending, self.kafka.pending = self.kafka.pending, []
            for writes, message in pending:
                self.step(writes.record.offset, message.topic)
            self.settler.reported([(writes, Report(None, 0, 0)) for writes, _ in pending])
            accepting, self.settler.accepting = self.settler.accepting, []
            for work in accepting:
                self.step(work.record.offset, ACCEPT)
            self.settler.accepted(accepting, [5] * len(accepting), 1)
        assert not [left for left in self.left.values() if left and left != [SEAL]]


TestSettling = Settling.TestCase
TestSettling.settings = settings(max_examples=40, stateful_step_count=40)
