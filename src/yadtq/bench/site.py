"""Where a bench takes place: the services, a folder, and the processes that it starts.

One invariant: a process started here is ended by its own handle when its block ends, with all that it started, and
also when this process is killed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from yadtq.app import App
from yadtq.bench.tasks import build
from yadtq.dev.process import POLL_S, Interrupt, Process, start, wait_until
from yadtq.errors import ServiceError
from yadtq.layout import OUTCOMES_CONFIG
from yadtq.publisher import ensure_queue
from yadtq.rebuild import open_queue
from yadtq.settings import Address, Settings

END_S = 20.0
ACTOR_S = 300.0
PARTITIONS = 8


@dataclass(frozen=True)
class Far:
    """The ports for services at a distance: what is to be reached, and where a proxy to it has to listen."""

    kafka: int
    kafka_proxy: int
    redis: int
    redis_proxy: int


@dataclass(frozen=True)
class Site:
    """The services and the folder of one bench."""

    kafka: str
    redis: str
    folder: Path
    number: str  # stands before every name, so that two benches can share services
    interrupt: Interrupt
    far: Far | None = None  # None: the services cannot be put at a distance
    pids: Mapping[str, int] = field(default_factory=dict)  # the processes of the services, where they are its own

    def at(self, *, kafka: str, redis: str) -> "Site":
        """The same, reached by other addresses."""
        return replace(self, kafka=kafka, redis=redis)

    def settings(self, name: str) -> Settings:
        """The settings of one contestant: its names are its own."""
        return Settings(Address(self.kafka, "bench"), Address(self.redis, "bench"), prefix=f"{self.number}-{name}-")

    @contextmanager
    def app(self, name: str, partitions: int = PARTITIONS) -> Iterator[App]:
        """An app of the bench's tasks with its topics in place."""
        app = build(self.settings(name))
        topics = app.layout.queue(app.name)
        try:
            # The broker's clock says when an outcome was there, not the clock of who is measured.
            stamped = {**OUTCOMES_CONFIG, "message.timestamp.type": "LogAppendTime"}
            app.broker.create_topic(topics.outcomes, partitions, stamped)
            ensure_queue(app.broker, topics, partitions)
            open_queue(app.broker, app.ledger, topics)
            yield app
        finally:
            app.close()

    @contextmanager
    def running(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> Iterator[Process]:
        """Run a command while the block runs; its words are in `name.log`."""
        self.interrupt.check()
        process = start(
            [str(word) for word in command],
            log=self.log(name),
            folder=self.folder,
            environment=environment or {},
            minded=True,
        )
        try:
            yield process
        finally:
            end(process)

    @contextmanager
    def worker(self, app: App, *, runners: int, slots: int, name: str = "w1") -> Iterator[Process]:
        """Run a worker of an app while the block runs."""
        command = [sys.executable, "-m", "yadtq", "worker", "yadtq.bench.tasks:app", "--name", name]
        command += ["--runners", str(runners), "--concurrency", str(slots)]
        command += ["--kafka", self.kafka, "--redis", self.redis]
        with self.running(f"{app.settings.prefix}{name}", command, {"YADTQ_PREFIX": app.settings.prefix}) as process:
            yield process

    def act(self, name: str, **arguments: object) -> dict[str, Any]:
        """Do something in a process of its own, and return what it says."""
        command = [sys.executable, "-m", "yadtq.bench.actor", name, json.dumps(arguments)]
        return self.ask(f"actor-{name}", command)

    def ask(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Run a command to its end and return the JSON that it prints last.

        Raises:
            ServiceError: It failed.
        """
        before = self.log(name).stat().st_size if self.log(name).exists() else 0
        with self.running(name, command, environment) as process:
            if not wait_until(lambda: not process.alive, ACTOR_S, self.interrupt):
                raise ServiceError(f"{name} did not end within {ACTOR_S:g} s; see {self.log(name)}")
        said = self.log(name).read_bytes()[before:].decode(errors="replace").strip()
        try:
            answer = json.loads(said.rsplit("\n", 1)[-1])
        except ValueError:
            raise ServiceError(f"{name} failed; {self.log(name)} ends with\n{said[-1_500:]}") from None
        if not isinstance(answer, dict):
            raise ServiceError(f"{name} gave no answer; see {self.log(name)}")
        return answer

    def until(
        self, condition: Callable[[], bool], what: str, timeout_s: float, process: Process, every_s: float = POLL_S
    ) -> None:
        """Wait for what a process brings about.

        Args:
            every_s: How often to look; a look at Kafka costs it and us a millisecond of the cores that are measured.

        Raises:
            ServiceError: It never came, or the process ended before.
        """
        came = False

        def settled() -> bool:
            nonlocal came
            came = condition()
            return came or not process.alive

        wait_until(settled, timeout_s, self.interrupt, every_s)
        if not came:
            happened = f"did not come within {timeout_s:g} s" if process.alive else "cannot come: its process has ended"
            raise ServiceError(f"{what} {happened}; logs are in {self.folder}")

    def follow(
        self, done: Callable[[], int], total: int, what: str, timeout_s: float, process: Process
    ) -> list[tuple[float, int]]:
        """Look from outside how many are done, until all are; the moments and numbers of it."""
        timeline: list[tuple[float, int]] = []

        def look() -> bool:
            timeline.append((time.monotonic(), done()))
            return timeline[-1][1] >= total

        self.until(look, f"{what}: the last of {total:,} tasks", timeout_s, process)
        return timeline

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def end(process: Process) -> None:
    """Ask a process to end, wait for it, and kill whatever of its group is left."""
    with suppress(ProcessLookupError):
        process.identity.signal(signal.SIGTERM)
        wait_until(lambda: not process.alive, END_S, Interrupt())
        os.killpg(process.identity.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
    process.kill()
