"""What each broker does when it is not there, and when a session runs out. Each has its own way to bring that about."""

import pytest
from broker_bench import BrokerBench
from confluent_kafka import TopicPartition

from yadtq.broker import connect
from yadtq.broker.kafka import KafkaBroker
from yadtq.broker.memory import MemoryBroker
from yadtq.errors import BrokerUnavailable
from yadtq.offsets import Position
from yadtq.settings import load

QUESTIONS = ["partitions", "create_topic", "end_offsets", "committed"]
ARGUMENTS = {
    "partitions": (),
    "create_topic": ("q", 1, {}),
    "end_offsets": ("q",),
    "committed": ("q", "g"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_memory_broker_that_is_down_answers_nothing(question: str) -> None:
    broker = MemoryBroker()
    broker.down = True
    with pytest.raises(BrokerUnavailable):
        getattr(broker, question)(*ARGUMENTS[question])


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_kafka_that_is_not_there_is_unavailable_and_named(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yadtq.broker.kafka.ANSWER_S", 0.2)
    broker = KafkaBroker({"bootstrap.servers": "127.0.0.1:1"}, "kafka+ssl://user:***@k1:9093")
    with pytest.raises(BrokerUnavailable, match=r"user:\*\*\*@k1"):
        getattr(broker, question)(*ARGUMENTS[question])
    broker.close()


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
