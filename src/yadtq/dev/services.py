"""A real Kafka and a real Valkey on this machine, for development, tests and the demo.

`yadtq up` leaves them running; `Services.started` ends them with the block, or with the process whatever ends it.

One invariant: a start that does not succeed ends what it started and nothing else.

When this process dies: services that were left running go on, and `services.json` says which they are, from the moment
each was started; services of `started` are killed.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from yadtq.dev import port
from yadtq.dev.jars import cache_folder, storage_errors
from yadtq.dev.kafka_node import KafkaNode
from yadtq.dev.lock import exclusive
from yadtq.dev.node import Launch, Node, Reporter, Silent
from yadtq.dev.process import Interrupt, Process, start, wait_until
from yadtq.dev.records import Record, Records
from yadtq.dev.valkey_node import ValkeyNode
from yadtq.dev.web_node import WebNode
from yadtq.errors import ServiceError

LEAST_FREE_BYTES = 500 * 1000 * 1000
LOG_BYTES = 5 * 1000 * 1000  # a log above this is put aside at the next start
STARTS = 3  # a port may be taken between choosing it and listening on it


@dataclass(frozen=True)
class State:
    """One service as it is now."""

    name: str
    title: str
    record: Record
    state: str  # "running", "not answering" or "dead"


class Services:
    """The services of one data folder. Several processes may work on one folder; a lock keeps them apart."""

    def __init__(
        self,
        folder: Path,
        *,
        web: bool = False,
        minded: bool = False,
        usual_ports: bool = True,
        reporter: Reporter | None = None,
        interrupt: Interrupt | None = None,
    ) -> None:
        """Look at a data folder; nothing is started yet.

        Args:
            folder: Holds data, logs and what is known about the services.
            web: Start the web app too.
            minded: End the services when this process ends, however it ends.
            usual_ports: Try 9092, 6379 and 8080 before any others.
            reporter: Is told how it goes.
            interrupt: Looked at by every wait.
        """
        self.folder = folder.absolute()
        self._web = web
        self._minded = minded
        self._usual_ports = usual_ports
        self._reporter = reporter or Silent()
        self._interrupt = interrupt or Interrupt()
        self._records = Records(self.folder)
        self._logs = self.folder / "logs"
        self._processes: dict[str, Process] = {}  # what this object started and has to reap

    @classmethod
    @contextmanager
    def started(cls, folder: Path, *, web: bool = False, usual_ports: bool = False) -> Iterator["Services"]:
        """Run the services while the block runs.

        Raises:
            ServiceError: They could not be started; nothing is left running.
        """
        services = cls(folder, web=web, minded=True, usual_ports=usual_ports)
        services.up()
        try:
            yield services
        finally:
            services.down()

    @property
    def kafka(self) -> str:
        """Kafka's address."""
        return self._record("kafka").address

    @property
    def redis(self) -> str:
        """Valkey's address."""
        return self._record("redis").address

    @property
    def web(self) -> str:
        """The web app's address."""
        return self._record("web").address

    @property
    def pids(self) -> dict[str, int]:
        """The process of each service."""
        return {name: record.pid for name, record in self._records.read().items()}

    def kill_kafka(self) -> None:
        """End Kafka with SIGKILL. It is gone when this returns."""
        self.kill("kafka")

    def start_kafka(self) -> None:
        """Start Kafka again, on its port and its data. It is ready when this returns."""
        self.start("kafka")

    def kill_redis(self) -> None:
        """End Valkey with SIGKILL. It is gone when this returns."""
        self.kill("redis")

    def start_redis(self) -> None:
        """Start Valkey again, on its port and its data. It is ready when this returns."""
        self.start("redis")

    def up(self) -> list[str]:
        """Start what does not run, and wait until all of it is ready to work.

        Returns:
            The names of what was started; the others ran already.

        Raises:
            ServiceError: Something could not be started. What this call started is ended, data is kept.
            KeyboardInterrupt: A signal came in; the same.
        """
        with self._locked():
            self._check_space()
            before = self._records.read()
            begun: list[str] = []
            try:
                self._start_all([self._kafka_node(), self._valkey_node()], begun)
                if self._web or "web" in before:
                    self._renew_web(before)
                    self._start_all([self._web_node()], begun)
            except BaseException:
                with ExitStack() as undo:  # ends all of them, also when ending one fails
                    for name in begun:
                        undo.callback(self._end, name)
                raise
            return begun

    def down(self) -> list[str]:
        """End what runs, in order; data is kept.

        Returns:
            The names of what was ended.
        """
        if not self.folder.exists():
            return []
        with self._locked():
            ended: list[str] = [name for name in ("web", "redis", "kafka") if name in self._records.read()]
            for name in ended:
                self._reporter.state(name, "stopping")
                self._end(name)
                self._reporter.state(name, "stopped")
            return ended

    def status(self) -> list[State]:
        """How the services are that `up` started."""
        return [self._state_of(self._node(name), record) for name, record in self._records.read().items()]

    def kill(self, name: str) -> None:
        """End one service with SIGKILL."""
        self._process(name).kill()

    def start(self, name: str) -> None:
        """Start one service again, on the same port and data.

        Raises:
            ServiceError: It does not start, or another program has taken its port.
        """
        with self._locked():
            wished = self._record(name).port
            try:
                self._start_all([self._node(name)], [])
            except BaseException:
                self._process(name).kill()
                raise
            if self._record(name).port != wished:
                self._process(name).kill()
                raise ServiceError(f"{name} cannot come back on port {wished}, which another program has taken")

    def _start_all(self, nodes: list[Node], begun: list[str]) -> None:
        """Start what does not run, side by side, then wait for all."""
        launched = {}
        for node in nodes:
            record = self._records.read().get(node.name)
            if record is None or not record.identity.alive:
                begun.append(node.name)
                launched[node.name] = self._launch(node)
        for node in nodes:
            self._await(node, launched.get(node.name))
            if node.name in launched:
                self._reporter.state(node.name, "ready")

    def _launch(self, node: Node) -> Launch:
        """Start one service and note it; it is not ready yet."""
        number = self._choose_port(node)
        launch = node.launch(number, self._reporter, self._interrupt)
        self._interrupt.check()
        self._reporter.state(node.name, "starting")
        _put_aside(node.log)
        process = start(
            launch.command, log=node.log, folder=self.folder, environment=launch.environment, minded=self._minded
        )
        self._processes[node.name] = process
        try:
            self._note(node, process, number, launch.version)
        except BaseException:
            process.kill()  # nobody else would know of it
            raise
        return launch

    def _note(self, node: Node, process: Process, number: int, version: str) -> None:
        record = Record(
            pid=process.identity.pid,
            birth=process.identity.birth,
            port=number,
            address=node.address(number),
            version=version,
            started_at_ms=time.time_ns() // 1_000_000,
            log=str(node.log),
        )
        self._records.write({**self._records.read(), node.name: record})
        self._records.keep_port(node.name, number)

    def _await(self, node: Node, launch: Launch | None) -> None:
        """Wait until a service is ready. One that ends instead is started again where that may help."""
        for _ in range(STARTS):
            process, number = self._process(node.name), self._record(node.name).port

            def settled(process: Process = process, number: int = number) -> bool:
                return not process.alive or node.answers(number, process.identity.pid)

            if not wait_until(settled, node.start_s, self._interrupt):
                break
            if process.alive:
                return
            if launch is None or not self._may_try_again(node, launch):
                break
            launch = self._launch(node)
        happened = "does not answer" if self._process(node.name).alive else "ended while it was starting"
        raise ServiceError(f"{node.title} {happened}; its logs are in {self._logs} and end with\n{node.last_words()}")

    def _may_try_again(self, node: Node, launch: Launch) -> bool:
        """Whether what may have made the start fail is out of the way now."""
        if not port.is_free(self._record(node.name).port):
            return True  # another port will be chosen
        if launch.suspect is None:
            return False
        launch.suspect.unlink(missing_ok=True)
        return True

    def _choose_port(self, node: Node) -> int:
        last = self._records.port(node.name)
        usual = node.usual_port if self._usual_ports else None
        wished = [number for number in (last, usual) if number is not None]
        taken = [record.port for name, record in self._records.read().items() if name != node.name]
        number = port.choose(wished, taken=taken)
        if wished and number != wished[0]:
            self._reporter.note(f"port {wished[0]} is taken by another program; {node.title} uses {number}")
        return number

    def _end(self, name: str) -> None:
        """End one service and forget that it ran. Not interrupted: it is what an interrupt asks for."""
        records = self._records.read()
        if name not in records:
            return
        node = self._node(name)
        if self._process(name).stop(node.stop_s, Interrupt()):
            node.stopped()
        self._processes.pop(name, None)
        self._records.write({other: record for other, record in records.items() if other != name})

    def _renew_web(self, before: dict[str, Record]) -> None:
        """End a web app that talks to where Kafka or Valkey no longer are."""
        now = self._records.read()
        if any(name in before and before[name].address != now[name].address for name in ("kafka", "redis")):
            self._end("web")

    def _state_of(self, node: Node, record: Record) -> State:
        if not record.identity.alive:
            state = "dead"
        else:
            state = "running" if node.answers(record.port, record.pid) else "not answering"
        return State(node.name, node.title, record, state)

    def _process(self, name: str) -> Process:
        return self._processes.get(name) or Process(self._record(name).identity)

    def _record(self, name: str) -> Record:
        record = self._records.read().get(name)
        if record is None:
            raise ServiceError(f"{name} was not started in {self.folder}; run `yadtq up`")
        return record

    def _node(self, name: str) -> Node:
        return {"kafka": self._kafka_node, "redis": self._valkey_node, "web": self._web_node}[name]()

    def _kafka_node(self) -> Node:
        return KafkaNode(self.folder / "kafka", self._logs, cache_folder())

    def _valkey_node(self) -> Node:
        return ValkeyNode(self.folder / "redis", self._logs)

    def _web_node(self) -> Node:
        records = self._records.read()
        kafka, redis = (records[name].address if name in records else "" for name in ("kafka", "redis"))
        return WebNode(kafka, redis, self._logs)

    def _check_space(self) -> None:
        for folder in (self.folder, cache_folder()):
            existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
            free_bytes = shutil.disk_usage(existing).free
            if free_bytes < LEAST_FREE_BYTES:
                raise ServiceError(
                    f"{free_bytes / 1e6:,.0f} MB are free in {existing} and Kafka needs {LEAST_FREE_BYTES / 1e6:,.0f}; "
                    "make room and run this again"
                )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with storage_errors(self.folder):
            self._logs.mkdir(parents=True, exist_ok=True)
            (self.folder / ".gitignore").write_text("*\n")
            with exclusive(self.folder / "lock", self._interrupt):
                yield


def _put_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
