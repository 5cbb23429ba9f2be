"""What each broker does when it is not there, and when a session runs out. Each has its own way to bring that about."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
from broker_bench import BrokerBench
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from waiting import eventually
from yadtq import ledger
from yadtq.broker import Message, Report, connect
from yadtq.broker.kafka import KafkaBroker, properties
from yadtq.broker.kafka.admin import FIRST_S
from yadtq.broker.kafka.producer import KafkaProducer
from yadtq.broker.kafka.sender import KafkaSender
from yadtq.broker.memory import MemoryBroker
from yadtq.errors import BrokerUnavailable, LedgerUnavailable, SettingsError
from yadtq.offsets import Position
from yadtq.settings import load

QUESTIONS = ["partitions", "create_topic", "grow_topic", "end_offsets", "committed", "recovery_ms"]
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "partitions": (),
    "create_topic": ("q", 1, {}),
    "grow_topic": ("q", 2),
    "end_offsets": ("q",),
    "committed": ("q", "g"),
    "recovery_ms": ("g", "consumer", 6_000),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_memory_broker_that_is_down_answers_nothing(question: str) -> None:
    broker = MemoryBroker()
    broker.down = True
    with pytest.raises(BrokerUnavailable):
        getattr(broker, question)(*ARGUMENTS[question])


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_kafka_that_is_not_there_is_unavailable_and_named(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yadtq.broker.kafka.cluster.ANSWER_S", 0.2)
    broker = KafkaBroker({"bootstrap.servers": "127.0.0.1:1"}, "kafka+ssl://user:***@k1:9093")
    with pytest.raises(BrokerUnavailable, match=r"user:\*\*\*@k1"):
        getattr(broker, question)(*ARGUMENTS[question])
    broker.close()


@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:1", "Connection refused"), ("nowhere.invalid:9092", "Failed to resolve")]
)
def test_an_address_at_which_nobody_is_is_told_soon_and_with_the_reason(
    address: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yadtq.broker.kafka.cluster.ANSWER_S", 120.0)
    broker = KafkaBroker({"bootstrap.servers": address}, "the-kafka")
    began_mono = time.monotonic()
    for _ in range(2):  # the second by a client of its own
        with pytest.raises(BrokerUnavailable, match=f"^Kafka at the-kafka does not answer: .*{reason}"):
            broker.partitions()
    assert time.monotonic() - began_mono < 60
    broker.close()


def test_a_store_that_does_not_answer_is_told_with_the_source_of_its_address() -> None:
    settings = load(environ={"YADTQ_KAFKA": "127.0.0.1:1", "YADTQ_REDIS": "127.0.0.1:1"})
    broker, store = connect(settings), ledger.connect(settings)
    source = r"refused.*\. Is the address right\? It is from: environment variable"
    with pytest.raises(BrokerUnavailable, match=f"{source} YADTQ_KAFKA$"):
        broker.partitions()
    with pytest.raises(LedgerUnavailable, match=f"{source} YADTQ_REDIS$"):
        store.workers()
    broker.close()
    store.close()


def test_a_kafka_that_takes_connections_and_is_slow_is_given_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yadtq.broker.kafka.cluster.ANSWER_S", FIRST_S + 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = KafkaBroker({"bootstrap.servers": f"127.0.0.1:{silent.getsockname()[1]}"}, "the-kafka")
        began_mono = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="the-kafka does not answer"):
            broker.partitions()
        assert time.monotonic() - began_mono > FIRST_S + 0.4
        broker.close()


@pytest.fixture
def kafka(kafka_address: str) -> Iterator[KafkaBroker]:
    broker = KafkaBroker({"bootstrap.servers": kafka_address}, "the-kafka")
    yield broker
    broker.close()


@pytest.mark.real
def test_the_classic_protocol_holds_the_session_that_was_asked_for(kafka: KafkaBroker) -> None:
    assert kafka.recovery_ms("g", "classic", 7_000) == 7_000


@pytest.mark.real
@pytest.mark.parametrize(("session_ms", "bound"), [(999, "min"), (1_800_001, "max")])
def test_a_session_that_kafka_would_not_take_is_refused_before_it_is_tried(
    kafka: KafkaBroker, session_ms: int, bound: str
) -> None:
    says = rf"the-kafka takes sessions of 1 to 1800 s, not .* --allowed, or change group\.{bound}\.session"
    with pytest.raises(SettingsError, match=says):
        kafka.recovery_ms("g", "classic", session_ms)


@pytest.mark.real
def test_with_the_consumer_protocol_the_broker_decides_for_each_group(
    kafka: KafkaBroker, kafka_address: str, prefix: str
) -> None:
    assert kafka.recovery_ms(f"{prefix}g", "consumer", 10_000) == 6_000
    slow = ConfigResource(ConfigResource.Type.GROUP, f"{prefix}slow")
    slow.add_incremental_config(
        ConfigEntry("consumer.session.timeout.ms", "30000", incremental_operation=AlterConfigOpType.SET)
    )
    admin = AdminClient({"bootstrap.servers": kafka_address})
    admin.incremental_alter_configs([slow])[slow].result(10)
    eventually(lambda: kafka.recovery_ms(f"{prefix}slow", "consumer", 10_000) == 30_000, 30)


@pytest.mark.real
def test_settings_lead_to_a_broker(kafka_address: str) -> None:
    broker = connect(load(kafka=kafka_address, environ={}))
    assert isinstance(broker.partitions(), dict)
    broker.close()


class Blocks:
    """A client inside `close`: a question would not be answered before its time is over."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def committed(self, *_: object, **__: object) -> None:
        pytest.fail("asked for positions")

    def incremental_assign(self, partitions: list[object]) -> None:
        self.told.append(("assign", len(partitions)))

    def incremental_unassign(self, partitions: list[object]) -> None:
        self.told.append(("unassign", len(partitions)))


def test_partitions_that_come_while_a_kafka_member_leaves_are_given_back_unheard() -> None:
    bench = BrokerBench(KafkaBroker({"bootstrap.servers": "127.0.0.1:1"}, "nowhere"), "q")
    member = bench.join()
    member.close()
    client, partitions = Blocks(), [TopicPartition("q", 0)]
    member.consumer._on_assign(client, partitions)  # type: ignore[attr-defined]
    member.consumer._on_revoke(client, partitions)  # type: ignore[attr-defined]
    assert client.told == [("assign", 1), ("unassign", 1)]
    assert bench.told == []
    bench.close()


class Silent:
    """A client whose group cannot be asked."""

    def committed(self, *_: object, **__: object) -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def incremental_assign(self, _: list[object]) -> None: ...

    resume = incremental_assign


def test_a_kafka_member_whose_group_cannot_be_asked_says_so_and_begins_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = BrokerBench(KafkaBroker({"bootstrap.servers": "127.0.0.1:1"}, "nowhere"), "q")
    member = bench.join()
    member.consumer._on_assign(Silent(), [TopicPartition("q", 0)])  # type: ignore[attr-defined]
    assert member.owned == {bench.at(0): Position(0, "", committed=False)}
    assert "committed offsets could not be read" in caplog.text
    bench.close()


@pytest.mark.parametrize("code", [KafkaError._STATE, KafkaError._OUTDATED])
def test_a_kafka_member_seeks_again_while_its_client_is_beginning_with_the_partition(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    bench = BrokerBench(KafkaBroker({"bootstrap.servers": "127.0.0.1:1"}, "nowhere"), "q")
    member = bench.join()
    client = Mock()
    client.seek.side_effect = [KafkaException(KafkaError(code)), None]
    with monkeypatch.context() as patch:
        patch.setattr(member.consumer, "_consumer", client)
        patch.setattr(member.consumer, "_owned", {bench.at(0)})
        member.consumer.seek(bench.at(0), 4)
    assert client.seek.call_count == 2
    bench.close()


ANSWERED = '{"brokers": {"one": {"rx": %d}, "two": {"rx": 7}}}'


def test_a_kafka_member_that_hears_nothing_says_so_and_tells_when_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(properties.MEMBER, "statistics.interval.ms", 50)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        broker = KafkaBroker({"bootstrap.servers": f"127.0.0.1:{silent.getsockname()[1]}"}, "silent")
        bench = BrokerBench(broker, "q")
        member = bench.join()

        def problem() -> str:
            try:
                member.poll()
            except BrokerUnavailable as error:
                return str(error)
            return ""

        assert re.match(r"Kafka does not answer: nothing has come from it for \d+ s", eventually(problem))
        looks = member.consumer._on_statistics  # type: ignore[attr-defined]
        for answers in (1, 1, 1):
            looks(ANSWERED % answers)
        assert bench.told == [], "the first look counts what came before the silence too"
        looks(ANSWERED % 2)
        assert bench.told == [(member, "answered", None)]
        looks(ANSWERED % 3)
        assert len(bench.told) == 1
        bench.close()


def test_a_memory_member_tells_that_an_outage_is_over() -> None:
    bench = BrokerBench(broker := MemoryBroker(), "q")
    member = bench.join()
    broker.down = True
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            member.poll()
    broker.down = False
    for _ in range(2):
        member.poll()
    assert bench.told == [(member, "answered", None)]
    bench.close()


class FakeProducer:
    """A client whose buffer fills, and that can meet a fatal error, both at a word."""

    made: ClassVar[list["FakeProducer"]] = []

    def __init__(self, config: dict[str, Any], **_: object) -> None:
        self.on_error = config["error_cb"]
        self.room = 1_000
        self.polls = 0
        self.waiting: list[Any] = []
        self.answering = threading.Event()
        FakeProducer.made.append(self)

    def produce(self, topic: str, value: bytes, key: object, partition: int, on_delivery: Any) -> None:
        if len(self.waiting) >= self.room:
            raise BufferError
        self.waiting.append(on_delivery)

    def poll(self, timeout: float) -> None:
        self.polls += 1
        if not self.answering.wait(min(timeout, 0.01)):
            return
        while self.waiting:
            self.waiting.pop()(KafkaError(KafkaError._MSG_TIMED_OUT), None)

    def __len__(self) -> int:
        return len(self.waiting)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaProducer]:
    monkeypatch.setattr("yadtq.broker.kafka.client.ck.Producer", FakeProducer)
    monkeypatch.setattr(FakeProducer, "made", [])
    producer = KafkaProducer({})
    yield producer
    for client in FakeProducer.made:
        client.answering.set()
    assert producer.close(5) == 0


def test_after_a_fatal_error_a_new_client_sends_and_the_old_one_still_reports(fake: KafkaProducer) -> None:
    (old,), reports = FakeProducer.made, list[Report]()
    fake.produce(Message("q", b"a"), reports.append)
    old.on_error(KafkaError(KafkaError._FATAL, "fenced", True))
    pairs: list[tuple[str, Report]] = []
    fake.produce_batch([Message("q", b"b"), Message("q", b"c")], ["b", "c"], pairs.extend)
    _, new = FakeProducer.made
    assert (len(old), len(new)) == (1, 2)
    eventually(lambda: new.polls)  # the thread has turned to the new one
    old.answering.set()
    eventually(lambda: len(reports) == 1)
    new.answering.set()
    eventually(lambda: len(pairs) == 2)
    assert all(report.error and not report.refused for report in [*reports, *dict(pairs).values()])


def test_a_full_buffer_makes_the_sender_wait_until_reports_make_room(fake: KafkaProducer) -> None:
    (client,) = FakeProducer.made
    client.room = 1
    pairs: list[tuple[int, Report]] = []
    messages = [Message("q", b"x")] * 3
    sender = threading.Thread(target=lambda: fake.produce_batch(messages, range(3), pairs.extend))
    sender.start()
    eventually(lambda: len(client) == 1)
    client.answering.set()
    sender.join(10)
    eventually(lambda: len(pairs) == 3)


def test_a_buffer_that_stays_full_is_reported(fake: KafkaProducer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yadtq.broker.kafka.client.ANSWER_S", 0.05)
    FakeProducer.made[0].room = 0
    reports: list[Report] = []
    fake.produce(Message("q", b"x"), reports.append)
    assert "full" in (reports[0].error or "")
    assert not reports[0].refused


def test_a_callback_that_fails_as_the_producer_closes_costs_nobody_else_a_report(fake: KafkaProducer) -> None:
    (client,) = FakeProducer.made
    pairs: list[tuple[str, Report]] = []

    def fail(_: Report) -> None:
        client.answering.clear()  # the last poll there is
        raise ArithmeticError

    fake.produce(Message("q", b"x"), fail)
    fake.produce_batch([Message("q", b"y")], ["y"], pairs.extend)  # the fake answers the newest first
    threading.Timer(0.05, client.answering.set).start()
    assert fake.close(5) == 0
    assert [tag for tag, _ in pairs] == ["y"]


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaSender]:
    monkeypatch.setattr("yadtq.broker.kafka.client.ck.Producer", FakeProducer)
    monkeypatch.setattr(FakeProducer, "made", [])
    made = KafkaSender({})
    yield made
    for client in FakeProducer.made:
        client.answering.set()
    assert made.close(5) == 0


def test_a_sender_gets_no_report_in_time_and_the_report_that_comes_later_is_its_own(sender: KafkaSender) -> None:
    (client,) = FakeProducer.made
    flight = sender.send([Message("q", b"x")] * 2)
    assert sender.wait(flight, 0.05) == []
    assert flight.reports == [None, None]
    client.answering.set()
    assert sorted(sender.wait(flight, 5)) == [0, 1]
    assert all(report and report.error and not report.refused for report in flight.reports)


def test_a_fatal_error_that_nobody_was_told_of_makes_a_new_client_at_the_next_message(
    sender: KafkaSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = FakeProducer.made
    before = sender.send([Message("q", b"a")])

    def fatal(*_: object) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL, "fenced", True))

    monkeypatch.setattr(old, "produce", fatal)
    flight = sender.send([Message("q", b"b")])
    _, new = FakeProducer.made
    assert (len(old), len(new)) == (1, 1)
    new.answering.set()
    assert sender.wait(flight, 5) == [0]
    assert not before.landed
    old.answering.set()
    assert sender.wait(before, 5) == [0]


def test_a_sender_polls_for_room_in_a_full_buffer(sender: KafkaSender) -> None:
    (client,) = FakeProducer.made
    client.room = 1
    client.answering.set()
    flight = sender.send([Message("q", b"x")] * 3)
    assert sorted(sender.wait(flight, 5)) == [0, 1, 2]


def test_a_buffer_that_stays_full_costs_a_sender_its_wait_once_and_not_for_each_message(
    sender: KafkaSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yadtq.broker.kafka.sender.ANSWER_S", 0.05)
    monkeypatch.setattr("yadtq.broker.kafka.client.ANSWER_S", 30)
    FakeProducer.made[0].room = 0
    flight = sender.send([Message("q", b"x")] * 100)
    assert {report.error for report in flight.reports if report} == {
        "the producer's buffer is full and Kafka takes nothing"
    }
    assert flight.landed


def test_while_one_thread_waits_for_what_does_not_come_another_gets_its_own(sender: KafkaSender) -> None:
    (client,) = FakeProducer.made
    silent = sender.send([Message("q", b"x")])
    held, client.waiting = client.waiting, []
    waiting = threading.Thread(target=sender.wait, args=(silent, 60))
    waiting.start()
    client.answering.set()
    for _ in range(20):
        flight = sender.send([Message("q", b"y")])
        assert sender.wait(flight, 30) == [0]
    assert waiting.is_alive()
    client.waiting += held
    waiting.join(30)
    assert silent.landed


def test_a_sender_that_nobody_waits_at_is_polled_all_the_same(
    sender: KafkaSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yadtq.broker.kafka.sender.MIND_S", 0.01)
    eventually(lambda: FakeProducer.made[0].polls)


# A session that runs out takes 6 s on Kafka; the scenarios with killed workers do that with real processes.


@pytest.fixture
def memory() -> BrokerBench:
    bench = BrokerBench(MemoryBroker(), "q")
    bench.create(2)
    return bench


def test_an_expelled_member_can_commit_nothing(memory: BrokerBench) -> None:
    member = memory.join().own(2)
    member.consumer.expel()  # type: ignore[attr-defined]
    member.consumer.commit({memory.at(0): Position(1, "")}, wait=True)
    assert member.answers[0][1]
    assert memory.committed() == {}


def test_an_expelled_member_hears_of_it_and_joins_again(memory: BrokerBench) -> None:
    first, second = memory.join().own(2), memory.join()
    first.consumer.pause([memory.at(0), memory.at(1)])
    first.consumer.expel()  # type: ignore[attr-defined]
    second.own(2)
    second.consumer.commit({memory.at(0): Position(1, "note")}, wait=True)
    second.close()
    first.own(2)
    assert [what for member, what, _ in memory.told if member is first] == ["assigned"] * 2 + ["lost"] * 2 + [
        "assigned"
    ] * 2
    assert first.owned[memory.at(0)] == Position(1, "note")
    memory.send(b"x", b"y", partition=0)
    first.read(1)
    assert first.values(0) == [b"y"]


def test_commits_to_a_memory_broker_that_is_down_fail(memory: BrokerBench) -> None:
    member = memory.join().own(2)
    memory.broker.down = True  # type: ignore[attr-defined]
    member.consumer.commit({memory.at(0): Position(1, "")}, wait=True)
    assert member.answers[0][1]
    with pytest.raises(BrokerUnavailable):
        member.poll()
