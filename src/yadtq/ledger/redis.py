"""The ledger in Redis or Valkey, and the only importer of redis.

One invariant: every write is a script that may run twice with the same effect, because a reply can be lost after the
script has run. So nothing here retries by itself: whoever asks decides, and asks again with the same token or fence.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from yadtq.errors import LedgerUnavailable
from yadtq.layout import RUN_TTL_S, Layout
from yadtq.ledger import wire
from yadtq.ledger.protocol import (
    FORGET_MS,
    PRODUCER_LEASE_MS,
    Answers,
    Batch,
    Beat,
    NewTask,
    OnHeard,
    OnIds,
    Pulse,
    Refusal,
    RunRecord,
    TaskRecord,
    WorkerRecord,
)

T = TypeVar("T")
ANSWER_S = 5.0  # a slow Redis (2 s) must not look like a dead one, and half a lease is left to try again
LISTEN_S = 0.5  # how long an ear that is closed may listen on
DEAF_S = 1.0  # before it tries again
NEEDS_LEASE = {"exchange", "beat", "leave", "workers", "run"}
# These may write when Redis is full: without its beat every worker would turn DEAD, without its seal no record would
# ever expire and make room. What brings new data (exchange, queued) is refused.
ALLOW_OOM = {"beat", "leave", "workers", "finish", "run"}
NAMES = ("exchange", "finish", "queued", "beat", "leave", "workers", "run")
MOST = 2_000  # tasks in one script: about 10 ms, during which Redis serves nobody else


class RedisLedger:
    """One Redis or Valkey primary."""

    def __init__(self, url: str, shown: str, layout: Layout, record_ttl_s: int) -> None:
        self._shown = shown
        self._layout = layout
        self._task_key = layout.task("")
        self._ttl_s = record_ttl_s
        self._url = url
        self._client = _client(url)
        self._sources = {name: _source(name) for name in NAMES}
        self._shas: dict[str, str] = {}

    def open(self, topic: str) -> None:
        # Milliseconds of the ledger's own clock: a later life gets a higher epoch, so no old fence is right again.
        def move() -> None:
            seconds, micros = self._client.time()
            self._client.set(self._layout.epoch(topic), seconds * 1000 + micros // 1000, nx=True)
            self._client.set(self._layout.read(topic), 1, px=self._ttl_s * 500)

        self._ask(move)

    def queued(self, tasks: Sequence[NewTask]) -> None:
        for at in range(0, len(tasks), MOST):
            self._script("queued", [], [wire.queued_value(self._task_key, tasks[at : at + MOST])])

    def exchange(self, topic: str, worker: str, incarnation: str, batch: Batch) -> Answers:
        layout, calls = self._layout, list[Call]()
        epoch = layout.epoch(topic)
        if batch.seals or batch.releases:
            value = wire.finish_value(self._task_key, self._ttl_s, layout.sealed, batch.seals, batch.releases)
            calls.append(("finish", [epoch], [value]))
        if batch.accepts or batch.claims:
            value = wire.exchange_value(self._task_key, topic, worker, incarnation, self._ttl_s * 1000, batch)
            calls.append(("exchange", [epoch, layout.heartbeats, layout.read(topic)], [value]))
        replies = dict(zip((name for name, _, _ in calls), self._scripts(calls), strict=True))
        if wire.WAIT in replies.values():
            return Answers(claims=[Refusal.WAIT] * len(batch.claims), waiting=True)
        sealed = wire.finish_reply(replies["finish"]) if "finish" in replies else ()
        accepted, answers = (
            wire.exchange_reply(replies["exchange"], len(batch.claims)) if "exchange" in replies else ((), ())
        )
        return Answers(accepted, sealed, answers)

    def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        def move() -> list[dict[bytes, bytes]]:
            with self._client.pipeline(transaction=False) as pipe:
                for task_id in task_ids:
                    pipe.hgetall(self._layout.task(task_id))
                return pipe.execute()

        return [wire.record_of(_text(found)) if found else None for found in self._ask(move)] if task_ids else []

    def listen(self, on_ids: OnIds, on_heard: OnHeard) -> "Ear":
        return Ear(_client(self._url), self._layout.sealed, on_ids, on_heard)

    def beat(self, beat: Beat) -> Pulse:
        facts = {
            "topic": beat.topic,
            "partitions": sorted(beat.partitions),
            "host": beat.host,
            "pid": beat.pid,
            "order": beat.order,
        }
        values = [
            beat.name,
            beat.incarnation,
            int(beat.first),
            beat.replaces,
            beat.lease_ms,
            msgspec.json.encode(facts),
        ]
        return Pulse(self._script("beat", [self._layout.heartbeats], values).decode())

    def leave(self, name: str, incarnation: str) -> None:
        self._script("leave", [self._layout.heartbeats], [name, incarnation])

    def workers(self, allowed_ms: int = 0, *, mark: bool = False) -> list[WorkerRecord]:
        found = self._script("workers", [self._layout.heartbeats], [allowed_ms, int(mark), FORGET_MS])
        return sorted((_worker(*row) for row in found), key=lambda worker: worker.name)

    def run_beat(
        self, topic: str, producer: str, *, ended: bool = False, left: bool = False, known: int = 0
    ) -> RunRecord:
        return _run(self._run("beat", topic, producer, int(ended), int(left), known))

    def run_close(self, topic: str, number: int) -> None:
        self._run("close", topic, number)

    def runs(self) -> dict[str, RunRecord]:
        return {topic.decode(): _run(run) for topic, run in self._run("list")}

    def _run(self, what: str, *values: str | int) -> Any:
        return self._script("run", [self._layout.runs], [what, RUN_TTL_S, PRODUCER_LEASE_MS, *values])

    def close(self) -> None:
        self._client.close()

    def _script(self, name: str, keys: Sequence[str], values: Sequence[Any]) -> Any:
        return self._scripts([(name, list(keys), list(values))])[0]

    def _scripts(self, calls: "Sequence[Call]") -> list[Any]:
        """Run scripts in one round trip. All of them may run again, so a server that forgot them gets all once more."""

        def move() -> list[Any]:
            try:
                return self._pipeline(calls)
            except NoScriptError:
                self._shas = {name: self._client.script_load(source) for name, source in self._sources.items()}
                return self._pipeline(calls)

        return self._ask(move)

    def _pipeline(self, calls: "Sequence[Call]") -> list[Any]:
        with self._client.pipeline(transaction=False) as pipe:
            for name, keys, values in calls:
                pipe.evalsha(self._shas.get(name, "0" * 40), len(keys), *keys, *values)
            return pipe.execute()

    def _ask(self, move: Callable[[], T]) -> T:
        try:
            return move()
        except (RedisError, OSError) as error:
            raise LedgerUnavailable(
                f"Redis at {self._shown} does not answer: {str(error).rstrip('.')}. Is it running? `yadtq status`"
            ) from (error)


class Ear:
    """Listens to the channel of announcements on a thread and a connection of its own, and comes back by itself."""

    def __init__(self, client: "redis.Redis", channel: str, on_ids: OnIds, on_heard: OnHeard) -> None:
        self._client = client
        self._channel = channel
        self._on_ids = on_ids
        self._on_heard = on_heard
        self._closing = threading.Event()
        threading.Thread(target=self._run, name="yadtq-ear", daemon=True).start()

    def close(self) -> None:
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._hear()
            except (RedisError, OSError):
                if not self._closing.is_set():
                    self._on_heard(False)  # it is told again, and asked for: whoever waits does it the slow way
                    self._closing.wait(DEAF_S)
        self._client.close()

    def _hear(self) -> None:
        with self._client.pubsub() as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(self._channel)
            heard_mono = time.monotonic()
            while not self._closing.is_set():
                message = channel.get_message(timeout=LISTEN_S)
                if message is not None:
                    heard_mono = time.monotonic()
                    self._tell(message)
                elif time.monotonic() - heard_mono > ANSWER_S:
                    raise ConnectionError("no answer to a ping")  # the other end is gone, and nothing says so
                else:
                    channel.ping()

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._closing.is_set():
            return
        if message["type"] == "subscribe":
            self._on_heard(True)
        elif message["type"] == "message":
            self._on_ids(message["data"].decode().split("\n"))


Call = tuple[str, list[str], list[Any]]


def _client(url: str) -> "redis.Redis":
    return redis.Redis.from_url(
        url,
        socket_timeout=ANSWER_S,
        socket_connect_timeout=ANSWER_S,
        retry=Retry(NoBackoff(), 0),
        client_name="yadtq",
        protocol=2,
    )


def _source(name: str) -> str:
    scripts = files("yadtq.ledger") / "scripts"
    flags = "#!lua flags=allow-oom\n" if name in ALLOW_OOM else "#!lua\n"
    lease = (scripts / "lease.lua").read_text() if name in NEEDS_LEASE else ""
    return flags + lease + (scripts / f"{name}.lua").read_text()


def _text(found: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in found.items()}


def _worker(name: bytes, status: bytes, age_ms: int, raw: bytes) -> WorkerRecord:
    beat = msgspec.json.decode(raw)
    return WorkerRecord(
        name=name.decode(),
        status=status.decode(),
        last_heartbeat_ms=beat["last_heartbeat_ms"],
        age_ms=age_ms,
        incarnation=beat["incarnation"],
        topic=beat["topic"],
        partitions=tuple(beat["partitions"]),
        host=beat["host"],
        pid=beat["pid"],
        order=beat["order"],
    )


def _run(reply: Sequence[int]) -> RunRecord:
    number, ended, ending = reply
    return RunRecord(number, bool(ended), bool(ending))
