"""How much memory a worker holds: idle, and with 100,000 tasks that are due in an hour."""

import inspect
import time
from contextlib import ExitStack
from typing import Any

from yadtq.bench import delivery
from yadtq.bench.contestants.peers import Arena
from yadtq.bench.memory import SUPPORTED, pss_mib
from yadtq.bench.ours import Ours
from yadtq.bench.scenario import Bench, Finding, Measure, in_turns, note_peers
from yadtq.bench.tasks import find
from yadtq.task import Task

NAME = "memory"
CHUNK = 2_000
DONE_S = 60.0
DELAY_S = 3_600
CAN_DELAY = "delay_s" in inspect.signature(Task.using).parameters


class Weighed(Ours):
    """A worker and two runners: idle, and what scheduled tasks add."""

    def __call__(self, share: float) -> dict[str, float]:
        since = self._since()
        with self._bench.site.worker(self._app, runners=2, slots=8) as worker:
            handles = find(self._app, "noop").submit_many([(0,)] * 100)
            ids = [handle.task_id for handle in handles]
            self._await(since, len(ids), "the outcomes", DONE_S, worker)
            self._check(since, ids, lambda _, result: result == b"0")
            time.sleep(self._bench.plan.settle_s)
            idle = pss_mib(worker.identity.pid)
            if not CAN_DELAY:
                return {"yadtq idle": idle}
            self._schedule(int(self._bench.plan.scheduled * share))
            time.sleep(self._bench.plan.settle_s)
            return {"yadtq idle": idle, "yadtq scheduled": pss_mib(worker.identity.pid) - idle}

    def _schedule(self, count: int) -> None:
        """Submit for later, and see that each of them waits in Kafka."""
        delayed = self._app.layout.queue(self._app.name).delayed
        since = delivery.ends(self._app.broker, delayed)
        options: dict[str, Any] = {"delay_s": DELAY_S}
        later = find(self._app, "noop").using(**options)
        for first in range(0, count, CHUNK):
            later.submit_many([(0,)] * min(CHUNK, count - first))
        waiting = delivery.written(self._app.broker, delayed, since)
        if waiting != count:
            self._finding.problems.append(f"{waiting:,} tasks wait and {count:,} were submitted")


def of_celery(arena: Arena, bench: Bench) -> Measure:
    """Celery's main process and two children."""

    def measure(share: float) -> dict[str, float]:
        arena.empty()
        with arena.working() as process:
            arena.ask("fill", "noop", 100)
            arena.follow(100, process)
            time.sleep(bench.plan.settle_s)
            idle = pss_mib(process.identity.pid)
            count = int(bench.plan.scheduled_by_celery * share)
            arena.ask("schedule", count, DELAY_S)
            bench.site.until(lambda: arena.held() >= count, "celery holds what is scheduled", DONE_S, process)
            time.sleep(bench.plan.settle_s)
            return {"celery idle": idle, "celery scheduled": pss_mib(process.identity.pid) - idle}

    return measure


def holding(bench: Bench) -> Finding:
    """Weigh the workers."""
    finding = Finding("Memory of a worker with two processes, PSS of all its processes")
    if not SUPPORTED:
        finding.notes.append("left out: this system does not say how pages are shared")
        return finding
    with ExitStack() as stack:
        app = stack.enter_context(bench.site.app(NAME))
        contestants: dict[str, Measure] = {"yadtq": Weighed(app, bench, finding)}
        if "celery" in bench.peers.names:
            arena = Arena("celery", bench.peers, bench.site)
            stack.callback(arena.close)
            contestants["celery"] = of_celery(arena, bench)
        units = {f"{name} {what}": "MiB" for name in contestants for what in ("idle", "scheduled")}
        in_turns(bench, finding, contestants, units)
    finding.notes.append(
        f"scheduled: what {bench.plan.scheduled:,} tasks that are due in an hour add (Celery: "
        f"{bench.plan.scheduled_by_celery:,})"
        if CAN_DELAY
        else "scheduled tasks are left out: this version cannot submit for later"
    )
    note_peers(finding, bench, ["celery"])
    return finding
