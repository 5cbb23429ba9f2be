"""How long until a task runs again whose runner, or whose whole worker, was killed with SIGKILL.

Each task notes its start in a file and holds out to be killed; the time is from the kill to the second note.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from yadtq.app import App
from yadtq.bench import delivery
from yadtq.bench.scenario import Bench, Finding
from yadtq.bench.tally import Series, percentile
from yadtq.bench.tasks import find
from yadtq.dev.process import Process

NAME = "recovery"
HOLD_S = 120.0
START_S = 30.0
AGAIN_S = 90.0


class Victim:
    """One task that is to be killed under."""

    def __init__(self, app: App, name: str, folder: Path) -> None:
        self._first = folder / name
        self._again = self._first.with_suffix(".again")
        self.task_id = find(app, "hold").submit(name, str(folder), HOLD_S).task_id

    @property
    def started(self) -> bool:
        return self._first.exists()

    @property
    def pid(self) -> int:
        """The process that runs it."""
        return int(self._first.read_text().split()[1])

    @property
    def again(self) -> bool:
        return self._again.exists()

    def recovery_s(self, killed_ns: int) -> float:
        return (int(self._again.read_text().split()[0]) - killed_ns) / 1e9


class Killing:
    """Kills, again and again."""

    def __init__(self, app: App, bench: Bench, finding: Finding) -> None:
        self._app = app
        self._bench = bench
        self._finding = finding
        self._notes = bench.site.folder / "notes"
        self._notes.mkdir()

    def runners(self) -> list[float]:
        """Kill the runner of a task, on one worker of two runners."""
        with self._bench.site.worker(self._app, runners=2, slots=8) as worker:
            kills = range(self._bench.plan.runner_kills)
            return [self._kill(f"runner-{number}", worker, lambda pid: pid) for number in kills]

    def workers(self) -> list[float]:
        """Kill the worker of a task, while another one is there."""
        found = []
        for number in range(self._bench.plan.worker_kills):
            names = f"a{number}", f"b{number}"
            site = self._bench.site
            with (
                site.worker(self._app, runners=2, slots=8, name=names[0]) as one,
                site.worker(self._app, runners=2, slots=8, name=names[1]) as other,
            ):
                site.until(lambda names=names: self._settled(names), "an even assignment", START_S, other)  # type: ignore[misc]
                pids = {one.identity.pid: other, other.identity.pid: one}
                found.append(self._kill_worker(f"worker-{number}", pids))
                self._bench.say(f"{self._finding.title}: a worker, {found[-1]:.2f} s")
        return found

    def _settled(self, names: tuple[str, str]) -> bool:
        """Both have partitions, so that either may get the task."""
        shares = {worker.name: worker.partitions for worker in self._app.ledger.workers()}
        return all(shares.get(name) for name in names)

    def _kill_worker(self, name: str, others: dict[int, Process]) -> float:
        def owner(pid: int) -> int:
            return next(parent.pid for parent in psutil.Process(pid).parents() if parent.pid in others)

        return self._kill(name, next(iter(others.values())), owner, survivors=others)

    def _kill(
        self, name: str, worker: Process, choose: Callable[[int], int], survivors: dict[int, Process] | None = None
    ) -> float:
        site, outcomes = self._bench.site, self._app.layout.queue(self._app.name).outcomes
        since = delivery.ends(self._app.broker, outcomes)
        victim = Victim(self._app, name, self._notes)
        site.until(lambda: victim.started, f"the start of {name}", START_S, worker)
        pid = choose(victim.pid)
        watched = (survivors or {}).get(pid, worker)
        killed_ns = time.time_ns()
        os.kill(pid, signal.SIGKILL)
        site.until(lambda: victim.again, f"the second start of {name}", AGAIN_S, watched)
        site.until(
            lambda: delivery.reached(self._app.broker, outcomes, since, 1), f"the outcome of {name}", START_S, watched
        )
        found = delivery.check(self._app.broker, outcomes, since, [victim.task_id], lambda _, result: result == b"2")
        self._finding.checked += 1
        self._finding.problems += found.problems
        return victim.recovery_s(killed_ns)


def recovery(bench: Bench) -> Finding:
    """Kill runners and workers."""
    finding = Finding("From a kill to the task's second start")
    with bench.site.app(NAME) as app:
        killing = Killing(app, bench, finding)
        runners = killing.runners()
        bench.say(f"{finding.title}: {len(runners)} runners, p99 {percentile(runners, 0.99):.3f} s")
        workers = killing.workers()
    finding.series = [
        Series("runner killed", "s", runners),
        Series("runner killed, p99", "s", [percentile(runners, 0.99)]),
    ]
    if workers:
        finding.series += [Series("worker killed", "s", workers), Series("worker killed, longest", "s", [max(workers)])]
    finding.notes.append(
        f"{len(runners)} kills of a runner, {len(workers)} of a worker; the lease is the default, 10 s"
    )
    return finding
