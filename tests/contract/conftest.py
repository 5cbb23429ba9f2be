"""Every port in each of its implementations."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from broker_bench import BrokerBench, hear_soon
from ledger_bench import Bench, MemoryBench, RedisBench, redis_bench

from opening import open_ledger
from yadtq.broker.kafka import KafkaBroker
from yadtq.broker.memory import MemoryBroker
from yadtq.settings import GroupProtocol


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.real)])
def empty_ledger(request: pytest.FixtureRequest, prefix: str) -> Iterator[Bench]:
    """A ledger of each kind that nobody has opened."""
    if request.param == "memory":
        yield MemoryBench()
    else:
        with redis_bench(request.getfixturevalue("redis_url"), prefix) as bench:
            yield bench


@pytest.fixture
def bench(empty_ledger: Bench) -> Bench:
    """A ledger of each kind with an epoch and two living workers, w1 and w2."""
    open_ledger(empty_ledger.ledger, "q")
    empty_ledger.start("w1", "w2")
    return empty_ledger


@pytest.fixture
def real(redis_url: str, prefix: str) -> Iterator[RedisBench]:
    """The real ledger alone, with an epoch and the worker w1."""
    with redis_bench(redis_url, prefix) as bench:
        open_ledger(bench.ledger, "q")
        bench.start("w1")
        yield bench


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.real)])
def broker(request: pytest.FixtureRequest, topic: str) -> Iterator[BrokerBench]:
    """A broker of each kind with the name of a topic that does not exist yet."""
    with opened(request, topic) as bench:
        yield bench


@pytest.fixture(
    params=["memory", *(pytest.param(f"kafka-{name}", marks=pytest.mark.real) for name in ("classic", "consumer"))]
)
def group_broker(request: pytest.FixtureRequest, topic: str) -> Iterator[BrokerBench]:
    """The same, with each protocol of Kafka's groups."""
    with opened(request, topic) as bench:
        yield bench


@contextmanager
def opened(request: pytest.FixtureRequest, topic: str) -> Iterator[BrokerBench]:
    if request.param == "memory":
        bench = BrokerBench(MemoryBroker(), topic)
    else:
        address = request.getfixturevalue("kafka_address")
        config = {
            "bootstrap.servers": address,
            "topic.metadata.propagation.max.ms": "500",  # the wait for an unknown topic to appear; 30 s unless told
            "topic.metadata.refresh.interval.ms": "500",  # new partitions are seen in as many; YADTQ asks for 5 s
        }
        protocol: GroupProtocol = "consumer" if request.param == "kafka-consumer" else "classic"
        if protocol == "consumer":
            hear_soon(address, f"{topic}-g", f"{topic}-h")
        bench = BrokerBench(KafkaBroker(config, address), topic, protocol)
    try:
        yield bench
    finally:
        bench.close()
