"""How much memory a worker holds: idle, and with 100,000 tasks that are due in an hour."""

import time
from contextlib import ExitStack

from yadtq.app import App
from yadtq.bench import delivery
from yadtq.bench.contestants.peers import Arena
from yadtq.bench.memory import SUPPORTED, pss_mib
from yadtq.bench.scenario import Bench, Finding, Measure, in_turns, note_peers
from yadtq.bench.tasks import find

NAME = "memory"
CHUNK = 2_000
DONE_S = 60.0
DELAY_S = 3_600


class Ours:
    """A worker and two runners: idle, and what scheduled tasks add."""

    def __init__(self, app: App, bench: Bench, finding: Finding) -> None:
        self._app = app
        self._bench = bench
        self._finding = finding

    def __call__(self, _share: float) -> dict[str, float]:
        site, broker = self._bench.site, self._app.broker
        outcomes = self._app.layout.queue(self._app.name).outcomes
        since = delivery.ends(broker, outcomes)
        with site.worker(self._app, runners=2, slots=8) as worker:
            handles = find(self._app, "noop").submit_many([(0,)] * 100)
            ids = [handle.task_id for handle in handles]
            site.until(lambda: delivery.written(broker, outcomes, since) >= len(ids), "the outcomes", DONE_S, worker)
            found = delivery.check(broker, outcomes, since, ids, lambda _, result: result == b"0")
            self._finding.checked += 1
            self._finding.problems += found.problems
            time.sleep(self._bench.plan.settle_s)
            return {"yadtq idle": pss_mib(worker.identity.pid)}


def of_celery(arena: Arena, bench: Bench) -> Measure:
    """Celery's main process and two children."""

    def measure(_share: float) -> dict[str, float]:
        arena.empty()
        with arena.working() as process:
            arena.ask("fill", "noop", 100)
            arena.follow(100, process)
            time.sleep(bench.plan.settle_s)
            return {"celery idle": pss_mib(process.identity.pid)}

    return measure


def holding(bench: Bench) -> Finding:
    """Weigh the workers."""
    finding = Finding("Memory of a worker with two processes, PSS of all its processes")
    if not SUPPORTED:
        finding.notes.append("left out: this system does not say how pages are shared")
        return finding
    with ExitStack() as stack:
        app = stack.enter_context(bench.site.app(NAME))
        contestants: dict[str, Measure] = {"yadtq": Ours(app, bench, finding)}
        units = {"yadtq idle": "MiB"}
        if "celery" in bench.peers.names:
            arena = Arena("celery", bench.peers, bench.site)
            stack.callback(arena.close)
            contestants["celery"] = of_celery(arena, bench)
            units["celery idle"] = "MiB"
        in_turns(bench, finding, contestants, units)
    note_peers(finding, bench, ["celery"])
    return finding
