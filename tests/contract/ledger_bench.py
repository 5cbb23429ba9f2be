"""A ledger on a bench: the port, and what a test has to do beside it (turn time, wipe, cut the line)."""

import itertools
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from waiting import ManualClock, eventually
from yadtq.layout import Layout
from yadtq.ledger import (
    Accept,
    Answer,
    Answers,
    Batch,
    Beat,
    Claim,
    Ledger,
    Over,
    Pulse,
    Release,
    Run,
    Seal,
    TaskRecord,
    WorkerRecord,
)
from yadtq.ledger.memory import MemoryLedger
from yadtq.ledger.redis import RedisLedger
from yadtq.states import State

HOUR_MS = 3_600_000
TTL_S = 600


class Bench:
    """Moves in few words. Workers live for an hour unless they are lost, so a slow machine changes no answer."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.incarnations: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def start(self, *names: str) -> None:
        """Let workers begin to live."""
        for name in names:
            assert self.beat(name, f"{name}-{next(self._numbers)}", first=True) is Pulse.ALIVE

    def beat(self, name: str, incarnation: str = "", lease_ms: int = HOUR_MS, **facts: Any) -> Pulse:
        incarnation = incarnation or self.incarnations[name]
        pulse = self.ledger.beat(Beat(name, incarnation, lease_ms, **facts))
        if pulse is Pulse.ALIVE:
            self.incarnations[name] = incarnation
        return pulse

    def lose(self, name: str) -> None:
        """Let a worker's lease run out."""
        assert self.beat(name, lease_ms=1) is Pulse.ALIVE
        self.pass_ms(2)
        eventually(lambda: self.worker(name).status == "DEAD")

    def worker(self, name: str, allowed_ms: int = 0) -> WorkerRecord:
        return next(worker for worker in self.ledger.workers(allowed_ms) if worker.name == name)

    def wish(self, task_id: str = "t", **changes: Any) -> Claim:
        wish: dict[str, Any] = {
            "task_id": task_id,
            "token": f"token-{next(self._numbers)}",
            "task_type": "add",
            "partition": 1,
            "offset": 7,
            "queued_at_ms": 5,
            "tries": 0,
            "max_attempts": 3,
        }
        return Claim(**(wish | changes))

    def batch(self, **moves: Any) -> Batch:
        return Batch(**moves)

    def exchange(self, worker: str, **moves: Any) -> Answers:
        return self.ledger.exchange("q", worker, self.incarnations[worker], Batch(**moves))

    def claim(self, worker: str, wish: Claim | None = None) -> Answer:
        (answer,) = self.exchange(worker, claims=[wish or self.wish()]).claims
        return answer

    def run(self, worker: str, wish: Claim | None = None) -> Run:
        answer = self.claim(worker, wish)
        assert isinstance(answer, Run)
        return answer

    def over(self, worker: str, wish: Claim | None = None) -> TaskRecord:
        answer = self.claim(worker, wish)
        assert isinstance(answer, Over)
        return answer.record

    def accept(self, run: Run, state: State = State.SUCCESS, task_id: str = "t", **facts: Any) -> int | None:
        accept = Accept(task_id, run.fence, state, **({"failed": state is not State.SUCCESS} | facts))
        return self.ledger.exchange("q", "any", "any", Batch(accepts=[accept])).accepts[0]

    def seal(self, run: Run, task_id: str = "t") -> bool:
        return self.ledger.exchange("q", "any", "any", Batch(seals=[Seal(task_id, run.fence)])).seals[0]

    def release(self, run: Run, task_id: str = "t") -> None:
        self.ledger.exchange("q", "any", "any", Batch(releases=[Release(task_id, run.fence)]))

    def record(self, task_id: str = "t") -> TaskRecord:
        (record,) = self.ledger.records([task_id])
        assert record is not None
        return record

    def now_ms(self) -> int:
        raise NotImplementedError

    def pass_ms(self, duration_ms: int) -> None:
        raise NotImplementedError

    def wipe(self) -> None:
        raise NotImplementedError

    def lose_next_reply(self) -> None:
        raise NotImplementedError

    def ttl_s(self, task_id: str = "t") -> int | None:
        raise NotImplementedError

    def written_status(self, name: str) -> str:
        raise NotImplementedError

    def age_producers(self, topic: str, by_ms: int) -> None:
        """Let time pass for the producers of a topic, more than a test can wait."""
        raise NotImplementedError

    def age_worker(self, name: str, by_ms: int) -> None:
        """Let time pass for a worker, more than a test can wait."""
        raise NotImplementedError


class MemoryBench(Bench):
    """The memory ledger on a clock that is turned by hand."""

    ledger: MemoryLedger

    def __init__(self) -> None:
        self.clock = ManualClock()
        super().__init__(MemoryLedger(self.clock, TTL_S))

    def now_ms(self) -> int:
        return self.clock.now_ms()

    def pass_ms(self, duration_ms: int) -> None:
        self.clock.turn(duration_ms)

    def wipe(self) -> None:
        self.ledger.wipe()
        self.clock.turn(100)  # more than its epochs, one more for each new life, may be ahead of the clock

    def lose_next_reply(self) -> None:
        self.ledger.lose_replies = 1

    def ttl_s(self, task_id: str = "t") -> int | None:
        at_ms = self.ledger.expires_at_ms(task_id)
        return None if at_ms is None else (at_ms - self.clock.now_ms()) // 1000

    def written_status(self, name: str) -> str:
        return self.ledger.written_status(name)

    def age_producers(self, topic: str, by_ms: int) -> None:
        self.clock.turn(by_ms)

    def age_worker(self, name: str, by_ms: int) -> None:
        self.clock.turn(by_ms)


class RedisBench(Bench):
    """The real ledger, behind a proxy that can lose a reply."""

    def __init__(self, url: str, proxy: "Proxy", prefix: str) -> None:
        self.proxy = proxy
        self.layout = Layout(prefix)
        self.client = redis.Redis.from_url(url, protocol=2)
        super().__init__(RedisLedger(proxy.url, "the test's Valkey", self.layout, TTL_S))

    def now_ms(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def pass_ms(self, duration_ms: int) -> None:
        end = self.now_ms() + duration_ms
        eventually(lambda: self.now_ms() >= end)

    def wipe(self) -> None:
        keys = list(self.client.scan_iter(f"{self.layout.prefix}*", 10_000))  # a server full of others' keys
        if keys:
            self.client.delete(*keys)
        self.pass_ms(5)

    def lose_next_reply(self) -> None:
        self.proxy.losses = 1

    def ttl_s(self, task_id: str = "t") -> int | None:
        left = int(self.client.ttl(self.layout.task(task_id)))
        return left if left >= 0 else None

    def written_status(self, name: str) -> str:
        return str(self.written(name)["status"])

    def written(self, name: str) -> dict[str, Any]:
        """The heartbeat as it lies in Redis."""
        found: dict[str, Any] = json.loads(self.client.hget(self.layout.heartbeats, name) or b"{}")
        return found

    def age_producers(self, topic: str, by_ms: int) -> None:
        run = json.loads(self.client.hget(self.layout.runs, topic) or b"{}")
        for producer in run["producers"].values():
            producer["beat_ms"] -= by_ms
        self.client.hset(self.layout.runs, topic, json.dumps(run))

    def age_worker(self, name: str, by_ms: int) -> None:
        beat = self.written(name)
        beat["last_heartbeat_ms"] -= by_ms
        self.client.hset(self.layout.heartbeats, name, json.dumps(beat))


class Proxy(socketserver.ThreadingTCPServer):
    """Forwards to a server; loses the next replies on wish: the work is done and the line is cut before the answer."""

    daemon_threads = True

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = upstream
        self.losses = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_address[1]}/0"


class _Forward(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        with socket.create_connection(self.server.upstream) as upstream:
            threading.Thread(target=_pump, args=(self.request, upstream), daemon=True).start()
            while reply := upstream.recv(65_536):
                if self.server.losses:
                    self.server.losses -= 1
                    return
                self.request.sendall(reply)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)
    except OSError:  # one of the two is closed, and with it the other
        return


@contextmanager
def redis_bench(url: str, prefix: str) -> Iterator[RedisBench]:
    """Put the real ledger on a bench; ends the proxy and removes its keys."""
    host, port = url.removeprefix("redis://").partition("/")[0].split(":")
    with Proxy((host, int(port))) as proxy:
        serving = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        serving.start()
        bench = RedisBench(url, proxy, prefix)
        try:
            yield bench
        finally:
            bench.wipe()
            bench.ledger.close()
            bench.client.close()
            proxy.shutdown()
            serving.join()
