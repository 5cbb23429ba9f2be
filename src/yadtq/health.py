"""What a worker answers when it is asked how it is: over HTTP, on this machine's loopback.

One invariant: `/ready` says yes only while the worker really consumes. A worker whose loops stand still, whose lease is
over, whose stores are silent or who is leaving says no, and says why; what cannot be told is no yes.

    GET /live      200 while the process answers
    GET /ready     200 while it consumes, else 503; JSON says what is missing
    GET /stats     counts of events, the oldest unfinished task, the lag of each partition, as JSON
    GET /metrics   the same for Prometheus
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from urllib.parse import urlsplit

from yadtq.broker import Broker
from yadtq.errors import BrokerUnavailable, LedgerUnavailable, SettingsError
from yadtq.heartbeat import Identity
from yadtq.intake import Intake
from yadtq.ledger import Ledger
from yadtq.offsets import lag
from yadtq.service import Clock, Service
from yadtq.settings import LOOPBACK, WorkerSettings, loopback
from yadtq.telemetry import EVENTS, Telemetry

LOOK_S = 5.0  # between two looks at the stores
STILL_S = 10.0  # a loop that has not moved for so long stands still; a rebalance may hold the intake for a while
REQUEST_S = 5.0  # for a client to say what it wants


@dataclass(frozen=True)
class Parts:
    """What there is to look at once the worker has begun."""

    identity: Identity
    intake: Intake
    loops: tuple[Service, ...]  # intake, engine, heartbeat


@dataclass(frozen=True)
class Ready:
    """Whether the worker consumes. standby: it would, but there are more workers than partitions."""

    ready: bool
    missing: list[str]
    standby: bool = False


@dataclass(frozen=True)
class Stats:
    """Everything that can be counted."""

    name: str
    incarnation: str
    pid: int
    topic: str
    group: str
    ready: Ready
    assigned: list[int]
    lag: dict[int, int]  # of each partition of the topic, as the group has it
    oldest_unfinished_s: float  # of the records that this worker has
    events: dict[str, int]


class Health(Service):
    """Looks at the worker's stores now and then, and answers at once from what it saw last."""

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        topic: str,
        group: str,
        settings: WorkerSettings,
        telemetry: Telemetry,
        clock: Clock,
        *,
        leaving: Callable[[], bool],
    ) -> None:
        """Take the port. Raises SettingsError: It cannot be had."""
        super().__init__("yadtq-health")
        self._broker = broker
        self._ledger = ledger
        self._topic = topic
        self._group = group
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._leaving = leaving
        self._parts: Parts | None = None
        self._lags: dict[int, int] = {}
        self._members = 0  # ALIVE workers on this topic
        self._moved: dict[Service, tuple[int, float]] = {}  # turns, and when they were seen to have grown
        self._server = _listen(settings.health, self)

    @property
    def url(self) -> str:
        host, _ = loopback(self._settings.health)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._server.server_port}"

    def watch(self, parts: Parts) -> None:
        """The worker has begun: look at these."""
        self._parts = parts

    def run(self) -> None:
        answering = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="yadtq-http", daemon=True)
        answering.start()
        try:
            while not self.stopping.is_set():
                self.look()
                self.stopping.wait(LOOK_S)
        finally:
            self._server.shutdown()
            self._server.server_close()
            answering.join()

    def look(self) -> None:
        """Ask both stores. That they answer here counts as an answer for the whole worker."""
        self.turns += 1
        try:
            committed = self._broker.committed(self._topic, self._group)
            ends = self._broker.end_offsets(self._topic)
            self._lags = {at.partition: lag(first, end, committed.get(at)) for at, (first, end) in ends.items()}
            self._telemetry.answered("Kafka")
        except BrokerUnavailable as error:
            self._telemetry.failed("Kafka", error)
        try:
            workers = self._ledger.workers()
            self._members = sum(worker.topic == self._topic and worker.status == "ALIVE" for worker in workers)
            self._telemetry.answered("Redis")
        except LedgerUnavailable as error:
            self._telemetry.failed("Redis", error)
        self.ready()

    def ready(self) -> Ready:
        """Say whether the worker consumes, and what is missing."""
        missing = self._telemetry.problems
        if self._leaving():
            missing.append("the worker is leaving")
        if self._parts is None:
            return Ready(False, [*missing, f"topic {self._topic!r} is not there yet, or Kafka was not asked yet"])
        missing += self._still(self._parts.loops)
        if not self._parts.identity.alive:
            missing.append(f"no heartbeat was taken for {self._settings.lease_s:g} s: the lease is over")
        standby = not self._parts.intake.assignments and self._members > len(self._lags) > 0
        if not self._parts.intake.assignments and not standby:
            missing.append("no partition is assigned")
        return Ready(not missing, missing, standby)

    def _still(self, loops: tuple[Service, ...]) -> Iterator[str]:
        now = self._clock.mono_s()
        for loop in loops:
            turns, since = self._moved.get(loop, (-1, now))
            if loop.turns != turns:
                self._moved[loop] = loop.turns, now
            elif now - since > max(STILL_S, 2 * self._settings.beat_s):
                yield f"{loop.name} stands still"
            if not loop.alive:
                yield f"{loop.name} has ended"

    def stats(self) -> Stats:
        """Everything that can be counted."""
        parts, now_ms = self._parts, self._clock.now_ms()
        mine = list(parts.intake.assignments.values()) if parts else []
        heads = [head for assignment in mine if (head := assignment.head) is not None]
        return Stats(
            name=self._settings.name,
            incarnation=parts.identity.incarnation if parts else "",
            pid=os.getpid(),
            topic=self._topic,
            group=self._group,
            ready=self.ready(),
            assigned=sorted(assignment.where.partition for assignment in mine),
            lag=dict(sorted(self._lags.items())),
            oldest_unfinished_s=max((max(now_ms - at_ms, 0) / 1000 for _, at_ms in heads), default=0.0),
            events={kind: self._telemetry.counts[kind] for kind in EVENTS},
        )


def metrics(stats: Stats) -> str:
    """Write the numbers as Prometheus reads them."""
    lines = [
        "# HELP yadtq_ready Whether the worker consumes.",
        "# TYPE yadtq_ready gauge",
        f"yadtq_ready {int(stats.ready.ready)}",
        "# HELP yadtq_assigned_partitions Partitions that this worker has.",
        "# TYPE yadtq_assigned_partitions gauge",
        f"yadtq_assigned_partitions {len(stats.assigned)}",
        "# HELP yadtq_oldest_unfinished_seconds Age of the oldest record here that is not finished.",
        "# TYPE yadtq_oldest_unfinished_seconds gauge",
        f"yadtq_oldest_unfinished_seconds {stats.oldest_unfinished_s:g}",
        "# HELP yadtq_lag Records of a partition that the group has not finished.",
        "# TYPE yadtq_lag gauge",
        *(f'yadtq_lag{{topic="{stats.topic}",partition="{at}"}} {left}' for at, left in stats.lag.items()),
        "# HELP yadtq_events_total Events of the worker, by kind.",
        "# TYPE yadtq_events_total counter",
        *(f'yadtq_events_total{{kind="{kind}"}} {count}' for kind, count in stats.events.items()),
    ]
    return "\n".join(lines) + "\n"


def _listen(address: str, health: Health) -> ThreadingHTTPServer:
    host, port = loopback(address)

    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in host else AF_INET
        daemon_threads = True

    class Handler(_Handler):
        asked = health

    try:
        return Server((host, port), Handler)
    except OSError as error:
        raise SettingsError(
            f"the health endpoint cannot have port {port} on {host}: {error.strerror}; give another one, or 0 for a "
            "free one"
        ) from error


class _Handler(BaseHTTPRequestHandler):
    """One request. Read only."""

    asked: Health
    timeout = REQUEST_S
    protocol_version = "HTTP/1.1"
    server_version = "yadtq"
    sys_version = ""

    def do_GET(self) -> None:
        # A page of another site in this machine's browser can have its own name point here (DNS rebinding).
        if _host_of(self.headers.get("Host", "")) not in LOOPBACK:
            self._answer(400, {"detail": "this server answers to 127.0.0.1, localhost and [::1] only"})
            return
        match self.path.partition("?")[0]:
            case "/live":
                self._answer(200, {"live": True})
            case "/ready":
                ready = self.asked.ready()
                self._answer(200 if ready.ready else 503, asdict(ready))
            case "/stats":
                self._answer(200, asdict(self.asked.stats()))
            case "/metrics":
                self._write(200, "text/plain; version=0.0.4; charset=utf-8", metrics(self.asked.stats()))
            case _:
                self._answer(404, {"detail": "there are /live, /ready, /stats and /metrics"})

    def _answer(self, status: int, body: object) -> None:
        self._write(status, "application/json", json.dumps(body) + "\n")

    def _write(self, status: int, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a probe that comes every second is no news."""


def _host_of(authority: str) -> str | None:
    try:
        return urlsplit(f"//{authority}").hostname
    except ValueError:
        return None
