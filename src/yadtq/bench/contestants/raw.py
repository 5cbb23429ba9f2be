"""The floor of a submit: produce, wait for the report, write QUEUED records. One thread, the clients as they are."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import confluent_kafka as ck
import msgspec
import redis

from yadtq.bench.tasks import QUEUE
from yadtq.envelope import Envelope
from yadtq.layout import Layout
from yadtq.settings import redis_url

QUEUED = """
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 0 then
    local at = 5 * (i - 1)
    redis.call('HSET', key, 'status', 'QUEUED', 'task_id', ARGV[at + 1], 'task_type', 'noop', 'topic', ARGV[at + 2],
      'partition', ARGV[at + 3], 'offset', ARGV[at + 4], 'queued_at_ms', ARGV[at + 5])
  end
end
"""


class Raw:
    """A submitter of no-op tasks without YADTQ."""

    def __init__(self, kafka: str, redis_address: str, prefix: str) -> None:
        self._layout = Layout(prefix)
        self._topic = self._layout.queue(QUEUE).tasks
        self._producer = ck.Producer(
            {"bootstrap.servers": kafka, "acks": "all", "enable.idempotence": True, "linger.ms": 0}
        )
        self._queued = redis.Redis.from_url(redis_url(redis_address), protocol=2).register_script(QUEUED)

    def submit(self, numbers: Sequence[int]) -> list[str]:
        """Publish one task for each number, and write their records when Kafka has all of them."""
        delivered: list[tuple[str, ck.Message]] = []
        now_ms = time.time_ns() // 1_000_000
        for n in numbers:
            task_id = uuid.uuid4().hex
            args = msgspec.Raw(msgspec.json.encode([n]))
            envelope = Envelope(task_id=task_id, task_type="noop", task_args=args, queued_at_ms=now_ms)

            def report(error: ck.KafkaError | None, message: ck.Message, task_id: str = task_id) -> None:
                if error is not None:
                    raise SystemExit(f"a task is not published: {error.str()}")
                delivered.append((task_id, message))

            self._producer.produce(self._topic, msgspec.json.encode(envelope), on_delivery=report)
        if self._producer.flush(30):
            raise SystemExit("tasks are not published")
        values: list[Any] = []
        for task_id, message in delivered:
            values += [task_id, self._topic, message.partition(), message.offset(), now_ms]
        self._queued(keys=[self._layout.task(task_id) for task_id, _ in delivered], args=values)
        return [task_id for task_id, _ in delivered]
