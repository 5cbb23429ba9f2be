"""The ledger in Redis or Valkey.

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
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError
from redis.retry import Retry

from yadtq.codec import OutcomeRecord
from yadtq.errors import LedgerFull, LedgerUnavailable
from yadtq.layout import BARRIER_MS, LOCK_MS, RUN_TTL_S, Layout
from yadtq.ledger import wire
from yadtq.ledger.protocol import (
    FORGET_MS,
    PRODUCER_LEASE_MS,
    Answer,
    Answers,
    Batch,
    Beat,
    Errand,
    Held,
    Meanwhile,
    NewTask,
    OnHeard,
    OnIds,
    Pulse,
    Refusal,
    RunRecord,
    TaskRecord,
    WorkerRecord,
)
from yadtq.ledger.redis_due import RedisDueIndex
from yadtq.ledger.redis_line import Command, Disturbed, Line, Trip

T = TypeVar("T")
ANSWER_S = 5.0  # a slow Redis (2 s) must not look like a dead one, and half a lease is left to try again
LISTEN_S = 0.5  # how long an ear that is closed may listen on
DEAF_S = 1.0  # before it tries again
NEEDS_LEASE = {"exchange", "beat", "leave", "workers", "run", "register", "recovery", "restore"}
NEEDS_FENCES = {"exchange", "finish", "register", "restore"}
NEEDS_SOURCE = {"exchange", "queued", "register", "due_put"}
DUE = {"due_place", "due_put", "due_look", "due_remove"}
# These may write when Redis is full: without its beat every worker would turn DEAD, without its seal no record would
# ever expire and make room. What brings new data (exchange, queued, due_put) is refused.
ALLOW_OOM = {"beat", "leave", "workers", "finish", "run", "register", "recovery", *(DUE - {"due_put"})}
NAMES = ("exchange", "finish", "queued", "beat", "leave", "workers", "run", "register", "recovery", "restore", *DUE)
NOTHING_SEEN: wire.Seen = (0, 0)
SCRIPTS = 10  # in one round trip: what is sent at once has to be taken within ANSWER_S
UNKNOWN = "0" * 40  # the name of no script
MOST = 200  # tasks in one script: 3 ms, during which Redis serves nobody else; at 2,000 each task costs it a third more


class RedisLedger:
    """One Redis or Valkey primary.

    Args:
        shown: Its address, for messages.
        hint: What they say where it does not answer.
    """

    def __init__(self, url: str, shown: str, layout: Layout, record_ttl_s: int, hint: str = "Is it running?") -> None:
        self._shown, self._hint = shown, hint
        self._layout = layout
        self._task_key = layout.task("")
        self._ttl_s = record_ttl_s
        self._url = url
        self._client = _client(url)
        self._line = Line(self._client)
        self._sources = {name: _source(name) for name in NAMES}
        self._shas: dict[str, str] = {}
        self._seen: dict[tuple[str, str], wire.Seen] = {}  # R2: by worker and topic
        self.due = RedisDueIndex(self._scripts, layout, record_ttl_s)

    def register(self, topic: str, worker: str, incarnation: str, attempts: Sequence[Held]) -> int | None:
        value = wire.register_value(self._task_key, topic, worker, incarnation, attempts)
        age_ms = self._script("register", [self._layout.epoch(topic), self._layout.barrier(topic)], [value])
        return None if age_ms < 0 else int(age_ms)

    def take(self, topic: str, token: str, least_ms: int) -> Errand:
        return Errand(self._recovery(topic, "take", token, least_ms, LOCK_MS, BARRIER_MS).decode())

    def allot(self, topic: str, token: str, floor: int) -> int | None:
        return self._recovery(topic, "allot", token, floor) or None

    def restore(
        self, topic: str, token: str, outcomes: Sequence[OutcomeRecord], *, absent_only: bool = False
    ) -> int | None:
        value = wire.restore_value(token, self._task_key, self._ttl_s, absent_only, outcomes)
        written = int(self._script("restore", [self._layout.lock(topic)], [value]))
        return None if written < 0 else written

    def open(self, topic: str, token: str, epoch: int, batches: int) -> bool:
        return bool(self._recovery(topic, "open", token, epoch, batches, self._ttl_s * 500))

    def drop(self, topic: str, token: str) -> None:
        self._recovery(topic, "drop", token)

    def _recovery(self, topic: str, what: str, *values: str | int) -> Any:
        of = self._layout
        keys = [of.epoch(topic), of.read(topic), of.barrier(topic), of.lock(topic), of.writes(topic)]
        return self._script("recovery", keys, [what, *values])

    def queued(self, tasks: Sequence[NewTask]) -> None:
        parts = [wire.queued_value(self._task_key, tasks[at : at + MOST]) for at in range(0, len(tasks), MOST)]
        for at in range(0, len(parts), SCRIPTS):
            self._scripts([("queued", [], [part]) for part in parts[at : at + SCRIPTS]])

    def exchange(self, topic: str, worker: str, incarnation: str, batch: Batch) -> Answers:
        return self.ask(topic, worker, incarnation, batch).answers()

    def ask(self, topic: str, worker: str, incarnation: str, batch: Batch) -> "Asked":
        of, calls, seen = self._layout, list[Call](), self._seen.get((worker, topic), NOTHING_SEEN)
        epoch, writes, barrier = of.epoch(topic), of.writes(topic), of.barrier(topic)
        if batch.seals or batch.releases:
            value = wire.finish_value(seen, worker, self._task_key, self._ttl_s, of.sealed, batch.seals, batch.releases)
            calls.append(("finish", [epoch, writes, barrier], [value]))
        if batch.brings:
            value = wire.exchange_value(seen, self._task_key, topic, worker, incarnation, self._ttl_s * 1000, batch)
            calls.append(("exchange", [epoch, of.heartbeats, of.read(topic), writes, barrier], [value]))
        trip = self._ask(lambda: self._line.send(self._commands(calls)))

        def answers(meanwhile: Meanwhile | None) -> Answers:
            return self._answers((worker, topic), batch, calls, self._replies(calls, trip, meanwhile))

        return Asked(answers)

    def _answers(
        self, asker: tuple[str, str], batch: Batch, calls: "Sequence[Call]", replies: Sequence[Any]
    ) -> Answers:
        if wire.WAIT in replies:
            return Answers(claims=[Refusal.WAIT] * len(batch.claims), waiting=True)
        sealed: Sequence[bool] = ()
        accepted: Sequence[int | None] = ()
        answers: Sequence[Answer] = ()
        seen = NOTHING_SEEN
        for (name, _, _), reply in zip(calls, replies, strict=True):
            if name == "finish":
                sealed, seen = wire.finish_reply(reply)
            else:
                accepted, answers, seen = wire.exchange_reply(reply, batch.claims)
        self._seen[asker] = seen
        return Answers(accepted, sealed, answers, epoch=seen[0])

    def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        def move() -> list[dict[bytes, bytes]]:
            with self._client.pipeline(transaction=False) as pipe:
                for task_id in task_ids:
                    pipe.hgetall(self._layout.task(task_id))
                return pipe.execute()

        if not task_ids:
            return []
        rows = zip(task_ids, self._ask(move), strict=True)
        return [wire.record_of(task_id, _text(found)) if found else None for task_id, found in rows]

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
        """Run scripts in one round trip."""
        return self._replies(calls, self._ask(lambda: self._line.send(self._commands(calls))))

    def _replies(self, calls: "Sequence[Call]", trip: Trip, meanwhile: Meanwhile | None = None) -> list[Any]:
        """Wait for them. All scripts may run again, so a server that forgot one gets all once more."""

        def move() -> list[Any]:
            try:
                return trip.replies(meanwhile)
            except NoScriptError:
                self._shas = {name: self._client.script_load(source) for name, source in self._sources.items()}
                return self._line.ask(self._commands(calls))

        try:
            return self._ask(move)
        except Disturbed as disturbed:
            raise disturbed.error from None

    def _commands(self, calls: "Sequence[Call]") -> list[Command]:
        return [("EVALSHA", self._shas.get(name, UNKNOWN), len(keys), *keys, *values) for name, keys, values in calls]

    def _ask(self, move: Callable[[], T]) -> T:
        try:
            return move()
        except OutOfMemoryError as error:
            raise LedgerFull(
                f"Redis at {self._shown} is full and refuses what is new; nothing is lost, and it goes on when there "
                "is room: give it more memory (`maxmemory`), or let finished records expire sooner"
            ) from error
        except (RedisError, OSError) as error:
            raise LedgerUnavailable(
                f"Redis at {self._shown} does not answer: {str(error).rstrip('.')}. {self._hint}"
            ) from error


class Asked:
    """A batch on its way."""

    def __init__(self, answers: Callable[[Meanwhile | None], Answers]) -> None:
        self._answers = answers

    def answers(self, meanwhile: Meanwhile | None = None) -> Answers:
        return self._answers(meanwhile)


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
    lease = (scripts / "lease.lua").read_text() if name in NEEDS_LEASE | DUE else ""
    fences = (scripts / "fences.lua").read_text() if name in NEEDS_FENCES else ""
    source = (scripts / "source.lua").read_text() if name in NEEDS_SOURCE else ""
    index = (scripts / "index.lua").read_text() if name in DUE else ""
    return flags + lease + fences + source + index + (scripts / f"{name}.lua").read_text()


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
        left=beat["left"],
    )


def _run(reply: Sequence[int]) -> RunRecord:
    number, ended, ending = reply
    return RunRecord(number, bool(ended), bool(ending))
