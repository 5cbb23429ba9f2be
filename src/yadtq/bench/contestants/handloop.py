"""The floor: what somebody would write by hand who needs the same durable writes and nothing else.

Consume 500, claim them with one script, call the functions, settle them with one script, produce the outcomes and wait
for them, store the offsets and commit. One process, one thread, one batch at a time; no retries, no runners, no leases.

Run as `python -m yadtq.bench.contestants.handloop kafka redis prefix`; it ends with SIGTERM.
"""

import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import confluent_kafka as ck
import msgspec
import redis

from yadtq.bench import tasks
from yadtq.codec import OutcomeRecord
from yadtq.envelope import Envelope
from yadtq.layout import Layout, QueueTopics
from yadtq.settings import redis_url
from yadtq.states import State

BATCH = 500
FUNCTIONS = {"noop": tasks.noop}
DAY_S = 86_400

CLAIM = """
local time = redis.call('TIME')
local now, answers = time[1] * 1000 + math.floor(time[2] / 1000), {}
for i, key in ipairs(KEYS) do
  local status = redis.call('HGET', key, 'status')
  if status == 'SUCCESS' or status == 'FAILED' then
    answers[i] = 0
  else
    answers[i] = redis.call('HINCRBY', key, 'attempts', 1)
    redis.call('HSET', key, 'status', 'PROCESSING', 'worker', ARGV[1], 'fence', answers[i], 'started_at_ms', now)
  end
end
return answers
"""
SETTLE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'fence') == ARGV[2 * i] then
    redis.call('HSET', key, 'status', 'SUCCESS', 'result', ARGV[2 * i + 1], 'finished_at_ms', now)
    redis.call('EXPIRE', key, ARGV[1])
  end
end
return now
"""


class Loop:
    """One process on one queue."""

    def __init__(self, kafka: str, redis_address: str, prefix: str) -> None:
        self.leaving = False
        self._layout = Layout(prefix)
        self._topics: QueueTopics = self._layout.queue(tasks.QUEUE)
        self._client = redis.Redis.from_url(redis_url(redis_address), protocol=2)
        self._claim = self._client.register_script(CLAIM)
        self._settle = self._client.register_script(SETTLE)
        self._decoder = msgspec.json.Decoder(Envelope)
        self._producer = ck.Producer(
            {"bootstrap.servers": kafka, "acks": "all", "enable.idempotence": True, "linger.ms": 0}
        )
        self._consumer = ck.Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": prefix + "handloop",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "fetch.wait.max.ms": 50,
            }
        )

    def run(self) -> None:
        self._consumer.subscribe([self._topics.tasks])
        try:
            while not self.leaving:
                messages = [message for message in self._consumer.consume(BATCH, 0.1) if message.error() is None]
                if messages:
                    self._batch(messages)
        finally:
            self._consumer.close()

    def _batch(self, messages: Sequence[ck.Message]) -> None:
        envelopes = [self._decoder.decode(message.value() or b"") for message in messages]
        keys = [self._layout.task(envelope.task_id) for envelope in envelopes]
        fences: Any = self._claim(keys=keys, args=["handloop"])
        claimed = [at for at, fence in enumerate(fences) if fence]
        began_ms = time.time_ns() // 1_000_000
        results = {at: run(envelopes[at]) for at in claimed}
        values: list[Any] = [DAY_S]
        for at in claimed:
            values += [fences[at], results[at]]
        finished_ms: Any = self._settle(keys=[keys[at] for at in claimed], args=values)
        for at in claimed:
            outcome = outcome_of(messages[at], envelopes[at], fences[at], results[at], began_ms, finished_ms)
            self._producer.produce(self._topics.outcomes, outcome, key=envelopes[at].task_id, on_delivery=delivered)
        if self._producer.flush(30):
            raise SystemExit("the outcomes are not written")
        last = {message.partition(): message for message in messages}
        for message in last.values():
            self._consumer.store_offsets(message)
        self._consumer.commit(asynchronous=True)


def run(envelope: Envelope) -> bytes:
    args, kwargs = msgspec.json.decode(envelope.task_args), msgspec.json.decode(envelope.task_kwargs)
    return msgspec.json.encode(FUNCTIONS[envelope.task_type](*args, **kwargs))


def outcome_of(
    message: ck.Message, envelope: Envelope, fence: int, result: bytes, began_ms: int, finished_ms: int
) -> bytes:
    return msgspec.json.encode(
        OutcomeRecord(
            task_id=envelope.task_id,
            task_type=envelope.task_type,
            state=State.SUCCESS,
            attempts=fence,
            fence=str(fence),
            result=msgspec.Raw(result),
            worker="handloop",
            queued_at_ms=envelope.queued_at_ms,
            started_at_ms=began_ms,
            finished_at_ms=finished_ms,
            topic=message.topic() or "",
            partition=message.partition() or 0,
            offset=message.offset() or 0,
        )
    )


def delivered(error: ck.KafkaError | None, _message: ck.Message) -> None:
    if error is not None:
        raise SystemExit(f"an outcome is not written: {error.str()}")


def main(kafka: str, redis_address: str, prefix: str) -> None:
    loop = Loop(kafka, redis_address, prefix)

    def leave(_number: int, _frame: object) -> None:
        loop.leaving = True

    signal.signal(signal.SIGTERM, leave)
    loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
