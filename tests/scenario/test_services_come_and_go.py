"""What `yadtq up` starts keeps its data through a kill -9 of Kafka and of Valkey, and `yadtq down` ends it."""

import os
import signal
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from yadtq_up import Folder, addresses, folder

pytestmark = pytest.mark.real


def test_data_outlives_kills_and_nothing_outlives_down(tmp_path: Path) -> None:
    with folder(tmp_path / "work") as work:
        banner = work.run("up", "--no-web")
        kafka, valkey = addresses(banner)
        assert str(tmp_path / "work/.yadtq") in banner
        assert "yadtq worker" in banner
        create_topic(kafka)
        publish(kafka, b"before the kill")
        redis.from_url(valkey).set("key", "before the kill")
        assert "running" in work.run("status")

        up_again_after_a_kill_of(work, "kafka")
        assert read(kafka, 1) == [b"before the kill"]

        redis.from_url(valkey).execute_command("WAITAOF", 1, 0, 5_000)  # type: ignore[no-untyped-call]
        up_again_after_a_kill_of(work, "redis")
        assert redis.from_url(valkey).get("key") == b"before the kill"

        untouched = work.services
        again = work.run("up", "--no-web")
        assert "Already running" in again
        assert addresses(again) == (kafka, valkey)
        assert work.services == untouched

        assert "Stopped" in work.run("down")
        assert work.processes() == []
        assert not (work.path / ".yadtq/services.json").exists()
        assert "Nothing is running" in work.run("down")
        assert "yadtq up" in work.run("status", code=1)

        assert addresses(work.run("up", "--no-web")) == (kafka, valkey)
        publish(kafka, b"after the start")
        assert read(kafka, 2) == [b"before the kill", b"after the start"]
        assert redis.from_url(valkey).get("key") == b"before the kill"


def up_again_after_a_kill_of(work: Folder, name: str) -> None:
    before = work.services
    os.kill(work.pid(name), signal.SIGKILL)
    said = work.run("status", code=1)
    assert "dead" in said
    assert "Bring it back with: yadtq up" in said
    work.run("up", "--no-web")
    other = {"kafka": "redis", "redis": "kafka"}[name]
    assert work.services[other] == before[other]
    assert work.port(name) == before[name]["port"]
    assert work.pid(name) != before[name]["pid"]


def create_topic(kafka: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})  # held until the answer is there
    admin.create_topics([NewTopic("t", 1)])["t"].result(10)


def publish(kafka: str, value: bytes) -> None:
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce("t", value, on_delivery=lambda error, _message: failures.append(error) if error else None)
    assert producer.flush(10) == 0
    assert failures == []


def read(kafka: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "g", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition("t", 0, 0)])
        return [message.value() for message in consumer.consume(count, timeout=10)]
    finally:
        consumer.close()
