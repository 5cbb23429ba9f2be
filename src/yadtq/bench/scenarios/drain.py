"""How fast a full queue is emptied: no-op tasks, results stored, 2 runners of 8 slots.

The tasks are in the queue before the worker starts; the rate is taken from the moment when a tenth is done, so that no
start counts. YADTQ and the hand-written loop are seen from Kafka's own time of each outcome, the others by counting
their results from outside.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from yadtq.app import App
from yadtq.bench import delivery
from yadtq.bench.contestants.peers import PEERS, Arena
from yadtq.bench.cost import Cost
from yadtq.bench.scenario import Bench, Finding, Measure, in_turns, note_peers
from yadtq.bench.site import Site
from yadtq.bench.tally import rate
from yadtq.bench.tasks import find
from yadtq.dev.process import Process

CHUNK = 2_000
COUNTED = 0.1  # of the tasks are done when counting begins
DRAIN_S = 180.0
RUNNERS, SLOTS = 2, 8


def fill(app: App, count: int) -> dict[str, bytes]:
    """Submit no-op tasks; the ids with the results they should have."""
    handles = []
    for first in range(0, count, CHUNK):
        handles += find(app, "noop").submit_many([(n,) for n in range(first, min(first + CHUNK, count))])
    return {handle.task_id: str(n).encode() for n, handle in enumerate(handles)}


class OnKafka:
    """A contestant that reads tasks from Kafka and writes outcomes there."""

    def __init__(
        self, name: str, app: App, bench: Bench, finding: Finding, size: int, site: Site | None = None
    ) -> None:
        self._name = name
        self._app = app
        self._bench = bench
        self._finding = finding
        self._size = size
        self._site = site or bench.site  # where the worker finds the services
        self._outcomes = app.layout.queue(app.name).outcomes
        self.costs_us: list[dict[str, float]] = []

    def __call__(self, share: float) -> dict[str, float]:
        count = max(int(self._size * share), 100)
        broker = self._app.broker
        since = delivery.ends(broker, self._outcomes)
        expected = fill(self._app, count)
        with self._working() as process:
            cost = Cost({self._name: process.identity.pid, **self._site.pids})

            def all_written() -> bool:
                done = delivery.written(broker, self._outcomes, since)
                if done >= count * COUNTED:
                    cost.look(min(done, count))
                return done >= count and delivery.reached(broker, self._outcomes, since, count)

            what = f"{self._name}: the last of {count:,} outcomes"
            self._site.until(all_written, what, DRAIN_S, process, delivery.LOOK_S)
        found = delivery.check(
            broker, self._outcomes, since, list(expected), lambda task_id, result: result == expected[task_id]
        )
        self._finding.checked += 1
        self._finding.problems += [f"{self._name}: {problem}" for problem in found.problems]
        self.costs_us.append(cost.per_task_us())
        return {self._name: rate(found.timeline, count, COUNTED)}

    @contextmanager
    def _working(self) -> Iterator[Process]:
        if self._name == "handloop":
            command = [sys.executable, "-m", "yadtq.bench.contestants.handloop"]
            command += [self._site.kafka, self._site.redis, self._app.settings.prefix]
            with self._site.running(self._name, command) as process:
                yield process
        else:
            with self._site.worker(self._app, runners=RUNNERS, slots=SLOTS) as process:
                yield process


class OfPeer:
    """A peer on the same Valkey."""

    def __init__(self, name: str, arena: Arena, finding: Finding, size: int) -> None:
        self._name = name
        self._arena = arena
        self._finding = finding
        self._size = size

    def __call__(self, share: float) -> dict[str, float]:
        count = max(int(self._size * share), 50)
        self._arena.empty()
        self._arena.ask("fill", "noop", count)
        with self._arena.working() as process:
            timeline = self._arena.follow(count, process)
        self._finding.checked += 1
        if sorted(self._arena.results()) != list(range(count)):
            self._finding.problems.append(f"{self._name}: the results are not one of each task")
        return {self._name: rate(timeline, count)}


def drain(bench: Bench) -> Finding:
    """Empty a full queue."""
    finding = Finding("Draining a full queue of no-op tasks")
    sizes = bench.plan.drained
    with ExitStack() as stack:
        ours = {
            name: OnKafka(name, stack.enter_context(bench.site.app(name)), bench, finding, sizes[name])
            for name in ("yadtq", "handloop")
        }
        contestants: dict[str, Measure] = {**ours}
        for name in bench.peers.names:
            arena = Arena(name, bench.peers, bench.site)
            stack.callback(arena.close)
            contestants[name] = OfPeer(name, arena, finding, sizes[name])
        in_turns(bench, finding, contestants, dict.fromkeys(contestants, "tasks/s"))
    finding.notes += [f"processor time a task, {name}: {spent_us(drain.costs_us)}" for name, drain in ours.items()]
    note_peers(finding, bench, [peer.name for peer in PEERS])
    return finding


def spent_us(costs: list[dict[str, float]]) -> str:
    """The middle of what each process spent on a task; where a run was over at the first look there is nothing."""
    names = dict.fromkeys(name for cost in costs for name in cost)
    middles = {name: median(cost[name] for cost in costs if name in cost) for name in names}
    return ", ".join(f"{name} {middle:.0f} µs" for name, middle in middles.items()) or "not seen"
