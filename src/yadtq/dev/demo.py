"""The demo: task lines through the original commands, while one consumer dies and a stand-by takes over.

One invariant: it says what really happened, from Redis, the consoles and the exit codes, and fails when that is not
what was promised. When it is interrupted, it ends its processes and the services it started; the data is kept.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yadtq.ledger
from yadtq.classic.consumer import EXIT_FAILED
from yadtq.dev.cast import Cast
from yadtq.dev.process import Interrupt
from yadtq.dev.takeover import taken_over
from yadtq.errors import ServiceError, YadtqError
from yadtq.ledger import Ledger, TaskRecord
from yadtq.settings import Settings
from yadtq.states import State

QUEUE = "demo"
PARTITIONS = 4
LOOK_S = 0.2
ALL_S = 120.0
READY_S = 30.0
WORKERS = ("worker-1", "worker-2", "stand-by")
EXAMPLE = Path("examples", "a_tasks.txt")
DOOMED = "worker-1"


@dataclass
class Scene:
    """The demo as it stands, for whoever draws it."""

    topic: str
    total: int
    statuses: Counter[str] = field(default_factory=Counter)
    workers: dict[str, str] = field(default_factory=dict)  # name -> what to show of it
    lines: list[str] = field(default_factory=list)  # all that the processes said; their threads append while one draws


@dataclass
class Summary:
    """What happened."""

    published: str
    statuses: Counter[str]
    attempts: Counter[int]
    moved: dict[str, str]  # partition or task of the process that died -> who took it over
    interrupted: list[str]  # tasks that were running in the process that died
    recovery_s: float | None  # from the death to the restart of the last of them
    problems: list[str]
    logs: Path  # the folder with every line of each console


def check_folder(root: Path) -> None:
    """Refuse a folder that has not what is shown.

    Raises:
        ServiceError: It is not the project's folder.
    """
    if not (root / EXAMPLE).exists() or not (root / "producer.py").exists():
        raise ServiceError(f"{root} is not the project's folder; run the demo from there")


class Demo:
    """One showing. `draw` is called whenever the scene may have changed."""

    def __init__(
        self, root: Path, folder: Path, settings: Settings, interrupt: Interrupt, draw: Callable[[Scene], None]
    ) -> None:
        number = f"{int(time.time()):x}"
        self._root = root
        self._folder = folder / "demo" / number
        self._settings = settings
        self._interrupt = interrupt
        self._draw = draw
        self._ledger: Ledger = yadtq.ledger.connect(settings)
        self._ids: list[str] = []
        self._file = self._folder / "a_tasks.txt"
        self._write_tasks(number)
        self.scene = Scene(QUEUE, len(self._ids))
        self._died_ms: int | None = None
        self._interrupted: list[str] = []
        self._restarted_ms: dict[str, int] = {}
        self._ready: set[str] = set()
        self._published = ""

    def _write_tasks(self, number: str) -> None:
        """The example file with ids of this showing's own: an id runs once, and data is kept between showings."""
        source = self._root / EXAMPLE
        self._folder.mkdir(parents=True)
        lines = []
        for line in source.read_text().splitlines():
            if line.strip() != "end":
                task = json.loads(line)
                task["task_id"] = f"{task['task_id']}-{number}"
                self._ids.append(task["task_id"])
                line = json.dumps(task)
            lines.append(line)
        self._file.write_text("\n".join(lines) + "\n")

    def run(self) -> Summary:
        """Show it.

        Raises:
            KeyboardInterrupt: A signal came in; the processes are ended.
            ServiceError: It did not come to its end in time.
        """
        with Cast(self._folder, self._settings, dict(os.environ)) as cast:
            script = [sys.executable, "-u"]
            say = self._say
            cast.start("monitor", [*script, str(self._root / "monitor_heartbeat.py"), "--topic", QUEUE], say)
            consumer = [*script, str(self._root / "consumer.py")]
            cast.start(DOOMED, [*consumer, DOOMED, QUEUE, "--fail-after", "3"], say)
            cast.start("worker-2", [*consumer, "worker-2", QUEUE, "--never-fail"], say)
            cast.start("stand-by", [*script, str(self._root / "guarantee_consumer.py"), "stand-by", QUEUE], say)
            self._wait_for_workers(cast)
            producer = [*script, str(self._root / "producer.py"), QUEUE, str(PARTITIONS)]
            cast.pipe("producer", ["tail", "-n", "+1", "-f", str(self._file)], producer, say)
            deadline = time.monotonic() + ALL_S
            while any(player.exit_code is None for player in cast.players.values()):
                self._look(cast)
                self._pause(deadline, f"not over after {ALL_S:g} s; the logs are in {self._folder}")
            for player in cast.players.values():
                player.finish()
            self._look(cast)
            self._draw(self.scene)  # with the last words, which may have come behind the last look
            return self._summary({name: player.exit_code for name, player in cast.players.items()})

    def _wait_for_workers(self, cast: Cast) -> None:
        """Until each consumer has said something: then it has found Kafka and Redis."""
        deadline = time.monotonic() + READY_S
        while not self._ready >= set(WORKERS):
            ended = [name for name, player in cast.players.items() if player.exit_code is not None]
            if ended:
                raise ServiceError(f"{ended[0]} ended before it began; its log is in {self._folder}")
            self._pause(deadline, f"the consumers are not ready after {READY_S:g} s; their logs are in {self._folder}")

    def _pause(self, deadline: float, late: str) -> None:
        self._interrupt.check()
        if time.monotonic() > deadline:
            raise ServiceError(late)
        self._draw(self.scene)
        time.sleep(LOOK_S)

    def _say(self, line: str) -> None:
        self.scene.lines.append(line)
        self._ready.add(line.partition(" ")[2].partition(":")[0])
        if " producer: the queue has ended: " in line:
            self._published = line.partition("the queue has ended: ")[2]

    def _look(self, cast: Cast) -> None:
        died = self._died_ms is None and cast.players[DOOMED].exit_code is not None
        if died:
            self._died_ms = time.time_ns() // 1_000_000
        # Read behind that look, never before it: what the dead process holds now is what it was executing at its end.
        records = dict(zip(self._ids, self._ledger.records(self._ids), strict=True))
        if died:
            self._interrupted = [task_id for task_id, record in records.items() if record and is_held(record, DOOMED)]
        self.scene.statuses = Counter(record.shown if record else "not yet" for record in records.values())
        workers = {worker.name: worker for worker in self._ledger.workers() if worker.name in WORKERS}
        for name in WORKERS:
            worker, code = workers.get(name), cast.players[name].exit_code
            partitions = ", ".join(map(str, worker.partitions)) if worker else ""
            alive = worker.status if worker else "starting"
            shown = alive if code is None else f"{alive}, process ended with {code}"
            self.scene.workers[name] = f"{shown}; partitions {partitions or 'none'}"
        self._note_restarts(records)

    def _note_restarts(self, records: dict[str, TaskRecord | None]) -> None:
        for task_id in self._interrupted:
            record = records[task_id]
            if record is not None and record.worker != DOOMED and record.started_at_ms is not None:
                self._restarted_ms.setdefault(task_id, record.started_at_ms)

    def _summary(self, exit_codes: dict[str, int | None]) -> Summary:
        records = [record for record in self._ledger.records(self._ids) if record is not None]
        problems = [
            f"{name} ended with {code}, not {expected}"
            for name, code in exit_codes.items()
            if code != (expected := EXIT_FAILED if name == DOOMED else 0)
        ]
        not_final = len(self._ids) - sum(record.final for record in records)
        if not_final:
            problems.append(f"{not_final} of {len(self._ids)} tasks are not final")
        died, restarted = self._died_ms, self._restarted_ms
        return Summary(
            published=self._published,
            statuses=Counter(record.shown for record in records),
            attempts=Counter(record.attempts for record in records),
            moved=taken_over(self.scene.lines, DOOMED),
            interrupted=self._interrupted,
            recovery_s=(max(restarted.values()) - died) / 1000 if died is not None and restarted else None,
            problems=problems,
            logs=self._folder,
        )


def is_held(record: TaskRecord, worker: str) -> bool:
    return record.status is State.PROCESSING and record.worker == worker


def has_failed(summary: Summary) -> YadtqError | None:
    """The error that the demo ends with, where something is not as promised."""
    return ServiceError("; ".join(summary.problems)) if summary.problems else None
