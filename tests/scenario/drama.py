"""A stage for dramas of real processes: starts them as a user does, reads their lines, and ends every one of them."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec
from account import Account, Run, read_topic
from observer import Observer

from waiting import eventually
from yadtq.app import App
from yadtq.broker import Record
from yadtq.layout import QueueTopics
from yadtq.ledger import TaskRecord
from yadtq.publisher import Publisher
from yadtq.settings import load
from yadtq.states import State
from yadtq.task import Call, Options

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEADLINE_S = 60.0  # for anything that should happen; the machine may be busy with other things
LOOK_S = 0.01  # most looks ask Kafka or Valkey, and who plays needs the cores that this takes
ALLOWED_S = 3  # leases and sessions, short so that a drama is
QUEUE = "q"
GROUP = "g"


def task(task_id: str, task_type: str, *args: object, tries: int = 0) -> str:
    """A line of a task file."""
    return json.dumps({"task_id": task_id, "task_type": task_type, "task_args": list(args), "task_tries": tries})


def call(
    task_id: str,
    task_type: str,
    *args: object,
    key: str | None = None,
    delay_s: float | None = None,
    at_ms: int | None = None,
) -> Call:
    """A call of one of `stage_app.py`'s tasks."""
    options = Options(queue=QUEUE, task_id=task_id, key=key, delay_s=delay_s, at_ms=at_ms)
    return Call(task_type, msgspec.json.encode(args), b"{}", options)


class Actor:
    """A process of the drama, with the lines that it said so far (its errors among them)."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path = ROOT,
        stdin: "int | IO[bytes]" = subprocess.DEVNULL,
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **env},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=False,
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._said:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def says(self, pattern: str, timeout_s: float = DEADLINE_S) -> "re.Match[str]":
        """Wait until it has said a line in which the pattern is found."""
        deadline_mono = time.monotonic() + timeout_s
        looked = 0
        with self._said:
            while True:
                for line in self.lines[looked:]:
                    if found := re.search(pattern, line):
                        return found
                looked = len(self.lines)
                left_s = deadline_mono - time.monotonic()
                assert self._reader.is_alive(), f"{self.name} left without saying {pattern!r}:\n{self}"
                assert left_s > 0, f"{self.name} did not say {pattern!r} within {timeout_s:g} s:\n{self}"
                self._said.wait(min(left_s, 0.2))

    def said(self, pattern: str) -> list[str]:
        """What it said so far that fits; of each line the first group, or all where there is none."""
        with self._said:
            found = [match for line in self.lines if (match := re.search(pattern, line))]
        return [match[match.re.groups and 1] for match in found]

    def write(self, *lines: str | bytes) -> None:
        """Lines for its input."""
        assert self._process.stdin is not None
        for line in lines:
            self._process.stdin.write((line.encode() if isinstance(line, str) else line) + b"\n")
        self._process.stdin.flush()

    def close_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def interrupt(self) -> None:
        self.signal(signal.SIGINT)

    def kill(self) -> float:
        """End it with SIGKILL; it is gone when this returns. Return the time, in epoch seconds."""
        at_s = time.time()
        self._process.kill()
        self._process.wait()
        return at_s

    def leaves(self, code: int, timeout_s: float = DEADLINE_S) -> None:
        """Wait for its end, which must come with this exit code and without a traceback."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not leave within {timeout_s:g} s:\n{self}") from None
        self._reader.join()
        assert self._process.returncode == code, f"{self.name} left with {self._process.returncode}:\n{self}"
        assert not self.said("^Traceback"), str(self)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """The end of the drama, for whoever is still there; also for one that was stopped."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def __str__(self) -> str:
        return "\n".join(f"  | {line}" for line in self.lines[-60:])


class Stage:
    """One queue on one Kafka and one Valkey, and all who work on it."""

    def __init__(self, kafka: str, redis: str, prefix: str, folder: Path) -> None:
        self._witness = folder / f"{prefix}witness.txt"
        self._witness.touch()
        self.env = {
            "YADTQ_KAFKA": kafka,
            "YADTQ_REDIS": redis,
            "YADTQ_PREFIX": prefix,
            "WITNESS": str(self._witness),
            "PYTHONPATH": os.pathsep.join([str(HERE / "witness"), str(ROOT / "src")]),
            "PYTHONUNBUFFERED": "1",
        }
        self.app = App(QUEUE, settings=load(environ=self.env))
        self.group = self.app.layout.group(GROUP)
        self.actors: list[Actor] = []
        self._publisher = Publisher(self.app.broker, self.app.ledger, self.app.layout, 2**20, first_turn=0)
        self._after = ExitStack()

    def __enter__(self) -> "Stage":
        self._after.callback(self.app.close)
        self._after.callback(self._publisher.close)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._after:
            if kind is not None:  # what led to the failure
                for actor in self.actors:
                    print(f"{actor.name} (pid {actor.pid}):\n{actor}")

    @property
    def topics(self) -> QueueTopics:
        return self.app.layout.queue(QUEUE)

    # -- who comes on ----------------------------------------------------------------------------------------------

    def enter(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None, **options: object
    ) -> Actor:
        actor = Actor(name, command, {**self.env, **(env or {})}, **options)  # type: ignore[arg-type]
        self._after.callback(actor.end)
        self.actors.append(actor)
        return actor

    def consumer(self, name: str, *options: str, fail_after: int | None = None) -> Actor:
        """`consumer.py`, which fails only where it is told to."""
        fails = ["--never-fail"] if fail_after is None else ["--fail-after", str(fail_after)]
        return self._consumer("consumer.py", name, *fails, *options)

    def stand_by(self, name: str, *options: str) -> Actor:
        return self._consumer("guarantee_consumer.py", name, *options)

    def _consumer(self, script: str, name: str, *options: str) -> Actor:
        shared = ["--allowed", str(ALLOWED_S), "--group", GROUP]
        return self.enter(name, [sys.executable, script, name, QUEUE, *shared, *options])

    def enter_as_written(self, script: str, name: str) -> Actor:
        """A consumer with all of its own choices."""
        return self.enter(name, [sys.executable, script, name, QUEUE, "--group", GROUP])

    def worker(self, name: str, *options: str, verbose: bool = True, env: Mapping[str, str] | None = None) -> Actor:
        """`yadtq worker` on the tasks of `stage_app.py`, on threads of its own unless the options say otherwise."""
        shared = [
            "--runners",
            "0",
            "--name",
            name,
            "--queue",
            QUEUE,
            "--group",
            GROUP,
            "--allowed",
            str(ALLOWED_S),
            *(["--verbose"] if verbose else []),
        ]
        command = [sys.executable, "-m", "yadtq", "worker", "stage_app:app", *shared, *options]
        return self.enter(name, command, env, cwd=HERE)

    def monitor(self, *options: str) -> Actor:
        command = [sys.executable, "monitor_heartbeat.py", "--allowed", str(ALLOWED_S), *options]
        return self.enter("monitor", command)

    def producer(self, *lines: str | bytes, partitions: int = 1, name: str = "producer") -> Actor:
        """`producer.py` with these lines in its input, which stays open."""
        actor = self.enter_producer(name, partitions, subprocess.PIPE)
        actor.write(*lines)
        return actor

    def enter_producer(self, name: str, partitions: int, stdin: "int | IO[bytes] | None") -> Actor:
        command = [sys.executable, "producer.py", QUEUE, str(partitions), "--group", GROUP]
        return self.enter(name, command, stdin=stdin)

    def create(self, partitions: int = 1) -> None:
        self.app.ensure_queue(QUEUE, partitions)

    def submit(
        self,
        *calls: "tuple[str, str, *tuple[object, ...]]",
        delay_s: float | None = None,
        at_ms: int | None = None,
    ) -> None:
        """Publish calls of `stage_app.py`'s tasks, each as (task id, task type, arguments...), from this process."""
        self.publish(call(*each, delay_s=delay_s, at_ms=at_ms) for each in calls)

    def publish(self, calls: Iterable[Call]) -> None:
        """Publish calls from this process and wait for Kafka's reports."""
        self._publisher.publish(list(calls)).check()

    def partitions_of(self, worker: str) -> Sequence[int]:
        """What a worker's heartbeat says it has; empty while it is DEAD."""
        found = {record.name: record for record in self.app.ledger.workers()}
        return found[worker].partitions if worker in found and found[worker].status == "ALIVE" else ()

    def until_each_has(self, partitions: int, *workers: str) -> None:
        """Wait until each of these workers says that it has so many."""
        self.until(lambda: all(len(self.partitions_of(name)) == partitions for name in workers))

    # -- what can be seen from outside -----------------------------------------------------------------------------

    def record(self, task_id: str) -> TaskRecord | None:
        return self.app.ledger.records([task_id])[0]

    def attempts(self, task_id: str) -> int:
        record = self.record(task_id)
        return 0 if record is None else record.attempts

    def finals(self, task_ids: Iterable[str]) -> dict[str, State]:
        """Those of the tasks that are final."""
        found = self.app.ledger.records(list(task_ids))
        return {record.task_id: record.status for record in found if record is not None and record.final}

    def until_final(self, task_ids: Iterable[str], timeout_s: float = DEADLINE_S) -> dict[str, State]:
        """Wait until all are final; return their states."""
        wanted = list(task_ids)
        self.until(lambda: len(self.finals(wanted)) == len(wanted), timeout_s)
        return self.finals(wanted)

    def committed(self) -> dict[int, int]:
        """The committed offset of each partition that has one."""
        found = self.app.broker.committed(self.topics.tasks, self.group)
        return {where.partition: position.offset for where, position in found.items()}

    def until_committed(self, expected: dict[int, int]) -> None:
        try:
            self.until(lambda: self.committed() == expected)
        except AssertionError:
            raise AssertionError(f"committed is {self.committed()}, and not {expected}") from None

    def until_drained(self, timeout_s: float = DEADLINE_S) -> None:
        """Wait until the offsets of all that is published are committed."""
        ends = self.app.broker.end_offsets(self.topics.tasks)
        expected = {where.partition: last for where, (first, last) in ends.items() if last > first}
        self.until(lambda: expected.items() <= self.committed().items(), timeout_s)

    def published(self) -> int:
        """How many records the queue holds."""
        return sum(last - first for first, last in self.app.broker.end_offsets(self.topics.tasks).values())

    def tasks_in_kafka(self) -> list[Record]:
        return read_topic(self.app.broker, self.topics.tasks)

    def dead_letters(self) -> list[Record]:
        return read_topic(self.app.broker, self.topics.dead)

    def runs(self) -> list[Run]:
        """What user code really ran so far, in order."""
        return Run.read(self._witness)

    def starts(self) -> int:
        """How often user code was started so far."""
        return self._witness.read_bytes().count(b"start ")

    def until_running(self, task_id: str, attempt: int = 1) -> Run:
        """Wait until an attempt is inside user code."""

        def running() -> list[Run]:
            return [
                run for run in self.runs() if (run.task_id, run.attempt) == (task_id, attempt) and run.end_ms is None
            ]

        self.until(lambda: bool(running()))
        return running()[0]

    def account(self) -> Account:
        """Compare what was published, what ran and how it ended."""
        return Account.of(self.tasks_in_kafka(), read_topic(self.app.broker, self.topics.outcomes), self.runs())

    @contextmanager
    def observed(self) -> Iterator[Observer]:
        """Watch offsets and records from outside meanwhile."""
        observer = Observer(self.app.settings, self.topics, self.group)
        observer.start()
        try:
            yield observer
        finally:
            observer.stop()
        observer.verdict()

    def until(self, condition: Callable[[], object], timeout_s: float = DEADLINE_S) -> None:
        """Wait for something; tell what everybody said where it does not come."""
        eventually(condition, timeout_s, LOOK_S)
