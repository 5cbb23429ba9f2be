"""A storm: workers and runners of a queue are killed, stopped and replaced at random from a seed, and all is counted.

The seed chooses the tasks, the faults, their order and their moments; YADTQ_SEED replays it. What the processes make of
a moment is theirs. Every fault notes whose processes it hit and when, so that a second run of a task is either laid at
the door of a fault that hit its first run, or is one too many.
"""

import json
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil
from account import Account, Run
from drama import Actor, Stage, call

from yadtq.codec import decode
from yadtq.errors import SubmitUnknown
from yadtq.states import FINAL, State
from yadtq.task import Call

LEASE_S = 4.0
PAUSE_MS = 500  # between the look at the lease and the start: the one window in which a start can be late (C6)
SETTLE_MS = 1_000  # user code has returned, and its outcome may not be accepted yet
DIE_MS = 1_000  # for the runners of a killed worker
BUSY_MS = 20  # what runs for longer is one of the slow tasks, and still runs when the fault comes
KEYS = 40
SLOW = 48  # so that something runs when a fault comes
CHILD = "yadtq.runners.child"
KILL, RUNNER, STOP, LATE_BEAT = "kill", "runner", "stop", "late beat"
FINALS_AT_ONCE = 2_000
DRAINED_S = 120.0


def choose_seed() -> int:
    return int(os.environ.get("YADTQ_SEED") or secrets.randbits(32))


def make_calls(rng: random.Random, count: int, first: int = 0) -> list[Call]:
    """Mostly tasks of a few ms; some of up to half a second, some that fail once, some with a key."""
    return [make_call(rng, f"t{number}") for number in range(first, first + count)]


def make_call(rng: random.Random, task_id: str) -> Call:
    kind = rng.random()
    seconds = rng.uniform(0.1, 0.5) if rng.random() < 0.15 else rng.uniform(0.0, 0.005)
    key = f"k{rng.randrange(KEYS)}" if rng.random() < 0.2 else None
    if kind < 0.04:
        after_s = None if kind < 0.02 else rng.uniform(0.0, 0.3)
        return call(task_id, "fails_once", task_id, seconds, after_s, key=key)
    return call(task_id, "nap", seconds, key=key)


@dataclass(frozen=True)
class Fault:
    """What was done to which processes, and when."""

    kind: str
    pids: frozenset[int]
    from_ms: float
    to_ms: float
    running: int  # runs of user code that it hit, by the witness

    def hit(self, run: Run) -> bool:
        """Whether the run was going on in there, or was over and perhaps not accepted."""
        over = run.end_ms is not None and run.end_ms < self.from_ms - SETTLE_MS
        return run.pid in self.pids and run.start_ms <= self.to_ms and not over


@dataclass
class Storm:
    """Workers on a stage, and what is done to them."""

    stage: Stage
    rng: random.Random
    options: Sequence[str]
    workers: dict[str, Actor] = field(default_factory=dict)
    gone: list[Actor] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)

    def enter(self, name: str) -> Actor:
        self.workers[name] = self.stage.worker(name, "--allowed", f"{LEASE_S:g}", *self.options, verbose=False)
        return self.workers[name]

    def submit(self, calls: Sequence[Call]) -> None:
        """Publish, and note what Kafka said to it."""
        ids = {str(made.options.task_id) for made in calls}
        try:
            self.stage.publish(calls)
        except SubmitUnknown as error:
            self.unknown |= set(error.unknown)
        self.acknowledged |= ids - self.unknown

    def load(self, count: int, started: int) -> None:
        """Submit so many tasks, some of them slow for sure, and wait until so many runs have begun."""
        target = self.stage.starts() + started
        first = len(self.acknowledged)
        slow = [call(f"t{first + n}", "nap", self.rng.uniform(0.4, 0.8)) for n in range(SLOW)]
        self.submit([*slow, *make_calls(self.rng, count - SLOW, first + SLOW)])
        self.stage.until(lambda: self.stage.starts() >= target)

    def rage(self, faults: Sequence[str], tasks: int) -> None:
        """Let these faults come in any order while so many tasks are submitted, and a rolling restart at half."""
        order = self.rng.sample(faults, len(faults))
        order.insert(len(order) // 2, "all")
        share = tasks // len(order)
        for kind in order:
            self.load(share, self.rng.randrange(1, share // 2))
            if kind != "all":
                self.strike(kind)
                continue
            for name in list(self.workers):
                self.replace(name)

    # -- faults ----------------------------------------------------------------------------------------------------

    def strike(self, kind: str) -> None:
        """Do one thing to one of those in which something runs."""
        name = self._victim()
        {KILL: self._kill, STOP: self._stop, "replace": self.replace, RUNNER: self._kill_runner}[kind](name)

    def _kill(self, name: str) -> None:
        """SIGKILL a worker; another comes, under its name or a new one."""
        victim = self.workers.pop(name)
        with self.fault(KILL, lambda: pids_of(victim), DIE_MS):
            victim.kill()
        self.gone.append(victim)
        self.enter(name if self.rng.random() < 0.5 else f"{name}x")

    def _kill_runner(self, name: str) -> None:
        running = self._running(runners_of(self.workers[name]))
        pid = self.rng.choice(sorted(run.pid for run in running) or sorted(runners_of(self.workers[name])))
        with self.fault(RUNNER, lambda: {pid}):
            os.kill(pid, signal.SIGKILL)

    def _stop(self, name: str) -> None:
        """SIGSTOP a worker for longer than its lease, then let it go on."""
        self.stop(name, LEASE_S + self.rng.uniform(1.0, 2.0))

    def stop(self, name: str, seconds: float, work: Callable[[], None] = lambda: None) -> None:
        """SIGSTOP a worker; do something meanwhile; SIGCONT it after this time."""
        victim = self.workers[name]
        with self.fault(STOP, lambda: pids_of(victim), lasts_ms=LEASE_S * 1_000 + PAUSE_MS):
            victim.signal(signal.SIGSTOP)
            until_mono = time.monotonic() + seconds
            work()
            self.stage.until(lambda: time.monotonic() > until_mono, seconds + 5.0)
            victim.signal(signal.SIGCONT)

    def replace(self, name: str) -> None:
        """SIGTERM a worker: it finishes what runs and leaves with 0; then another comes. No run may be repeated."""
        self._retire("replace", name)
        self.enter(name)

    def retire(self, name: str) -> None:
        """SIGTERM a worker, and be one less."""
        self._retire("retire", name)

    def _retire(self, kind: str, name: str) -> None:
        victim = self.workers.pop(name)
        with self.fault(kind):
            victim.signal(signal.SIGTERM)
            victim.leaves(0)
        self.gone.append(victim)

    @contextmanager
    def fault(
        self, kind: str, pids: Callable[[], Iterable[int]] = set, after_ms: float = 0.0, lasts_ms: float = 0.0
    ) -> Iterator[None]:
        """Note what is done meanwhile; without processes it is nothing that may repeat a run.

        Args:
            pids: The processes that it hits, asked for at the last moment: a worker may be starting some.
            after_ms: For how long it may hit what starts after it.
            lasts_ms: For how long it may hit what starts, from its beginning; 0: as long as it goes on, and `after_ms`.
        """
        going_on = self._running(None)  # takes a while
        hit = frozenset(pids())
        running = sum(run.pid in hit for run in going_on) if hit else len(going_on)
        from_ms = time.time() * 1000
        yield
        to_ms = from_ms + lasts_ms if lasts_ms else time.time() * 1000 + after_ms
        self.faults.append(Fault(kind, hit, from_ms, to_ms, running))

    def _victim(self) -> str:
        """One of the workers that run something now, and not only for a moment."""

        def busy() -> list[str]:
            before_ms = time.time() * 1000 - BUSY_MS
            pids = {run.pid for run in self._running(None) if run.start_ms < before_ms}
            return [name for name in sorted(self.workers) if runners_of(self.workers[name]) & pids]

        self.stage.until(busy)
        return self.rng.choice(busy() or sorted(self.workers))

    def _running(self, pids: Iterable[int] | None) -> list[Run]:
        wanted = None if pids is None else set(pids)
        return [run for run in self.stage.runs() if run.end_ms is None and (wanted is None or run.pid in wanted)]

    # -- the end ---------------------------------------------------------------------------------------------------

    def drain(self) -> float:
        """Wait until all offsets are committed; return after how many seconds that was."""
        since_mono = time.monotonic()
        self.stage.until_drained(DRAINED_S)
        return time.monotonic() - since_mono

    def leave(self) -> None:
        """All leave, with 0."""
        self._note_late_beats()
        for worker in self.workers.values():
            worker.signal(signal.SIGTERM)
        for worker in self.workers.values():
            worker.leaves(0)

    def _note_late_beats(self) -> None:
        """A machine that is too busy to beat in time stops a worker as SIGSTOP does."""
        for worker in self.workers.values():
            stopped = sum(worker.pid in fault.pids for fault in self.faults)
            if len(worker.said("reborn")) > stopped:
                self.faults.append(Fault(LATE_BEAT, frozenset(pids_of(worker)), 0, time.time() * 1000, 0))

    def reckon(self, ordered: bool = False) -> "Reckoning":
        account = self.stage.account()
        finals: dict[str, State] = {}
        ids = sorted(self.acknowledged)
        for at in range(0, len(ids), FINALS_AT_ONCE):
            finals |= self.stage.finals(ids[at : at + FINALS_AT_ONCE])
        kinds, keys = {}, dict[str, list[str]]()
        for record in self.stage.tasks_in_kafka():
            envelope = decode(record.value)
            kinds[envelope.task_id] = envelope.task_type
            if ordered and record.key is not None:
                keys.setdefault(record.key.decode(), []).append(envelope.task_id)
        return Reckoning(account, self.faults, self.acknowledged, self.unknown, finals, kinds, keys)


@dataclass
class Reckoning:
    """The counters of a storm, and what must hold of them."""

    account: Account
    faults: list[Fault]
    acknowledged: set[str]
    unknown: set[str]
    finals: dict[str, State]
    kinds: dict[str, str]
    keys: dict[str, list[str]]  # of each ordering key its tasks, in the order of Kafka

    def __post_init__(self) -> None:
        self.extra = [run for run in self._repeated() if not self._retried(run)]
        self.lost = self.acknowledged - set(self.account.outcomes)
        self.stuck = self.acknowledged - self.lost - set(self.finals)
        self.unexpected = self.account.unexpected | (set(self.account.published) - self.acknowledged - self.unknown)
        self.duplicated = {run.task_id for run in self.extra}
        self.recovered = {task_id for task_id in self.duplicated if self.finals.get(task_id) is State.SUCCESS}
        self.hit = {(run.task_id, run.attempt) for run in self.account.runs if self._hit(run)}

    @property
    def late(self) -> set[str]:
        """Tasks that were started after their end, in the window that is left (C6): by a worker whose lease was over,
        between a look at it and the start. They can write nothing."""
        stopped = [fault for fault in self.faults if fault.kind in (STOP, LATE_BEAT)]
        ends_ms = {task_id: outcomes[0].finished_at_ms or 0 for task_id, outcomes in self.account.outcomes.items()}
        return {
            run.task_id
            for run in self.extra
            if run.start_ms <= ends_ms.get(run.task_id, 0) + PAUSE_MS and any(fault.hit(run) for fault in stopped)
        }

    def _repeated(self) -> list[Run]:
        """Runs that are not the one whose outcome counts."""
        counted = self.account.counted
        return [run for run in self.account.runs if counted.get(run.task_id) != run]

    def _retried(self, run: Run) -> bool:
        """Whether it came to its end and asked for the next run."""
        return self.kinds.get(run.task_id) == "fails_once" and run.end_ms is not None

    def _hit(self, run: Run) -> bool:
        return any(fault.hit(run) for fault in self.faults)

    def check(self, *, kinds: Iterable[str]) -> "Reckoning":
        """Nothing lost, nothing unexpected, one outcome, in order; and no run repeated that no fault had hit."""
        self.account.check(late=self.late)
        assert not self.lost, self
        assert not self.unexpected, self
        assert not self.stuck, self
        assert set(self.finals.values()) <= {State.SUCCESS} <= FINAL, self
        unprovoked = [run for run in self.extra if not self._hit(run)]
        assert not unprovoked, f"run again although no fault had hit them: {unprovoked[:5]}; {self}"
        assert len(self.extra) <= len(self.hit), self
        self._check_order()
        for kind in kinds:
            assert any(fault.running for fault in self.faults if fault.kind == kind), (
                f"{kind} hit nothing: void; {self}"
            )
        return self

    def _check_order(self) -> None:
        """Of one key, the next task starts when the one before has its outcome."""
        runs: dict[str, list[Run]] = {}
        for run in self.account.runs:
            runs.setdefault(run.task_id, []).append(run)
        counted = self.account.counted
        for key, task_ids in self.keys.items():
            ends_ms, before = 0, ""
            for task_id in dict.fromkeys(task_ids):
                first_ms = min(run.start_ms for run in runs[task_id])
                assert first_ms >= ends_ms, f"key {key}: {task_id} started before {before} had ended; {self}"
                ends_ms, before = counted[task_id].end_ms or 0, task_id

    @property
    def counts(self) -> dict[str, object]:
        faults = Counter(fault.kind for fault in self.faults)
        return {
            "attempts": len(self.account.runs),
            "acknowledged": len(self.acknowledged),
            "unknown": len(self.unknown),
            "lost": len(self.lost),
            "unexpected": len(self.unexpected),
            "duplicated": len(self.duplicated),
            "late": len(self.account.run_after_the_end),
            "recovered": len(self.recovered),
            "stuck": len(self.stuck),
            "faults": {kind: [count, self._running(kind)] for kind, count in sorted(faults.items())},
        }

    def _running(self, kind: str) -> int:
        return sum(fault.running for fault in self.faults if fault.kind == kind)

    def __str__(self) -> str:
        return json.dumps(self.counts)


def pids_of(worker: Actor) -> set[int]:
    """A worker and its runners."""
    return {worker.pid, *runners_of(worker)}


def runners_of(worker: Actor) -> set[int]:
    """The processes that run a worker's tasks."""
    found = set()
    with suppress(psutil.NoSuchProcess):  # the worker itself
        for child in psutil.Process(worker.pid).children():
            with suppress(psutil.NoSuchProcess):  # a zombie too: it ends just now
                if CHILD in child.cmdline():
                    found.add(child.pid)
    return found
