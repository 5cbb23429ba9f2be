"""The ledger in Redis or Valkey, and the only importer of redis.

One invariant: every write is a script that may run twice with the same effect, because a reply can be lost after the
script has run. So nothing here retries by itself: whoever asks decides, and asks again with the same token or fence.
"""

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
from yadtq.ledger.protocol import (
    FORGET_MS,
    MAX_TAKEOVERS,
    PRODUCER_LEASE_MS,
    Accept,
    Answer,
    Answers,
    Batch,
    Beat,
    Claim,
    Elsewhere,
    NewTask,
    Over,
    Pulse,
    Refusal,
    Release,
    Run,
    RunRecord,
    Seal,
    TaskRecord,
    WorkerRecord,
)
from yadtq.states import State

T = TypeVar("T")
ANSWER_S = 5.0  # a slow Redis (2 s) must not look like a dead one, and half a lease is left to try again
NEEDS_LEASE = {"claim", "beat", "leave", "workers", "run"}
# These may write when Redis is full: without its beat every worker would turn DEAD, without its seal no record would
# ever expire and make room. What brings new data (claim, accept, queued) is refused.
ALLOW_OOM = {"beat", "leave", "workers", "seal", "release", "run"}
NAMES = ("claim", "accept", "seal", "release", "queued", "beat", "leave", "workers", "run")


class RedisLedger:
    """One Redis or Valkey primary."""

    def __init__(self, url: str, shown: str, layout: Layout, record_ttl_s: int) -> None:
        self._shown = shown
        self._layout = layout
        self._ttl_s = record_ttl_s
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 0),
            client_name="yadtq",
            protocol=2,
        )
        self._sources = {name: _source(name) for name in NAMES}
        self._shas: dict[str, str] = {}

    def open(self) -> None:
        # Milliseconds of the ledger's own clock: a later life gets a higher epoch, so no old fence is right again.
        def move() -> None:
            seconds, micros = self._client.time()
            self._client.set(self._layout.epoch, seconds * 1000 + micros // 1000, nx=True)

        self._ask(move)

    def queued(self, tasks: Sequence[NewTask]) -> None:
        keys = [self._layout.task(task.task_id) for task in tasks]
        values = [
            value
            for t in tasks
            for value in (t.task_id, t.task_type, t.topic, t.partition, t.offset, t.queued_at_ms, t.tries)
        ]
        if keys:
            self._scripts([("queued", keys, values)])

    def exchange(self, worker: str, incarnation: str, batch: Batch) -> Answers:
        calls = [
            call
            for call in (
                self._accepts(batch.accepts),
                self._seals(batch.seals),
                self._releases(batch.releases),
                self._claims(worker, incarnation, batch.claims),
            )
            if call is not None
        ]
        replies = dict(zip((name for name, _, _ in calls), self._scripts(calls), strict=True))
        return Answers(
            accepts=[at or None for at in replies.get("accept", [])],
            seals=[bool(done) for done in replies.get("seal", [])],
            claims=_answers(replies.get("claim", []), len(batch.claims)),
        )

    def _accepts(self, accepts: Sequence[Accept]) -> "Call | None":
        values = [
            value
            for a in accepts
            for value in (
                a.fence,
                a.state,
                int(a.failed),
                int(a.died),
                a.result or "",
                "" if a.error_log is None else a.error_log,
            )
        ]
        return ("accept", [self._layout.task(a.task_id) for a in accepts], values) if accepts else None

    def _seals(self, seals: Sequence[Seal]) -> "Call | None":
        keys = [self._layout.task(seal.task_id) for seal in seals]
        return ("seal", keys, [self._ttl_s, *(seal.fence for seal in seals)]) if seals else None

    def _releases(self, releases: Sequence[Release]) -> "Call | None":
        keys = [self._layout.task(release.task_id) for release in releases]
        return ("release", keys, [release.fence for release in releases]) if releases else None

    def _claims(self, worker: str, incarnation: str, claims: Sequence[Claim]) -> "Call | None":
        keys = [self._layout.epoch, self._layout.heartbeats, *(self._layout.task(claim.task_id) for claim in claims)]
        values: list[str | int] = [worker, incarnation, MAX_TAKEOVERS]
        for c in claims:
            values += [c.token, c.task_type, c.topic, c.partition, c.offset, c.queued_at_ms, c.tries, c.max_attempts]
            values += [c.refusal, c.task_id]
        return ("claim", keys, values) if claims else None

    def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        def move() -> list[dict[bytes, bytes]]:
            with self._client.pipeline(transaction=False) as pipe:
                for task_id in task_ids:
                    pipe.hgetall(self._layout.task(task_id))
                return pipe.execute()

        return [_record(_text_keys(found)) if found else None for found in self._ask(move)] if task_ids else []

    def beat(self, beat: Beat) -> Pulse:
        facts = {
            "topic": beat.topic,
            "partitions": sorted(beat.partitions),
            "host": beat.host,
            "pid": beat.pid,
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


Call = tuple[str, list[str], list[Any]]


def _source(name: str) -> str:
    scripts = files("yadtq.ledger") / "scripts"
    flags = "#!lua flags=allow-oom\n" if name in ALLOW_OOM else "#!lua\n"
    lease = (scripts / "lease.lua").read_text() if name in NEEDS_LEASE else ""
    return flags + lease + (scripts / f"{name}.lua").read_text()


def _answers(replies: Any, count: int) -> list[Answer]:
    if isinstance(replies, bytes):  # one refusal for the whole batch
        return [Refusal(replies.decode())] * count
    return [_answer(*reply) for reply in replies]


def _answer(kind: bytes, *rest: Any) -> Answer:
    if kind == b"RUN":
        fence, attempt, failures, started_at_ms, lost, deaths = rest
        return Run(fence.decode(), attempt, failures, started_at_ms, lost.decode(), deaths)
    if kind == b"ELSEWHERE":
        return Elsewhere(rest[0].decode())
    flat = rest[0]
    return Over(_record({name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}))


def _text_keys(found: Mapping[bytes, bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in found.items()}


def _record(found: Mapping[str, bytes]) -> TaskRecord:
    def text(name: str) -> str | None:
        value = found.get(name)
        return None if value is None else value.decode()

    def number(name: str) -> int | None:
        value = found.get(name)
        return None if value is None else int(value)

    return TaskRecord(
        task_id=text("task_id") or "",
        status=State(text("status") or State.QUEUED),
        sealed="sealed" in found,
        task_type=text("task_type") or "",
        attempts=number("attempts") or 0,
        fence=text("fence") or "",
        worker=text("worker"),
        result=found.get("result"),
        error_log=text("error_log"),
        queued_at_ms=number("queued_at_ms"),
        started_at_ms=number("started_at_ms"),
        finished_at_ms=number("finished_at_ms"),
        topic=text("topic") or "",
        partition=number("partition") or 0,
        offset=number("offset") or 0,
    )


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
    )


def _run(reply: Sequence[int]) -> RunRecord:
    number, ended, ending = reply
    return RunRecord(number, bool(ended), bool(ending))
