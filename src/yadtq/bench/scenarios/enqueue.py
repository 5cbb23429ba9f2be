"""How fast tasks are submitted: one by one, on 16 threads, in bulk; beside the same by hand, and the peers' bulk calls.

Nothing runs meanwhile. At the end of all runs one worker empties the queue, which shows that each submit was one task.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from yadtq.app import App
from yadtq.bench import delivery
from yadtq.bench.contestants.peers import PEERS, Arena
from yadtq.bench.scenario import Bench, Finding, Measure, in_turns, note_peers
from yadtq.bench.tally import Series

NAME = "enqueue"
THREADS = 16
CHUNK = 1_000
DRAIN_S = 300.0
BEST = "best peer, bulk"


class Submitting:
    """One way to submit."""

    def __init__(self, series: str, actor: str, count: int, bench: Bench, ids: list[str], **more: int) -> None:
        self._series = series
        self._actor = actor
        self._count = count
        self._bench = bench
        self._ids = ids
        self._more = more

    def __call__(self, share: float) -> dict[str, float]:
        site = self._bench.site
        settings = site.settings(NAME)
        path = site.folder / "submitted"
        answer = site.act(
            self._actor,
            kafka=site.kafka,
            redis=site.redis,
            prefix=settings.prefix,
            count=max(int(self._count * share), THREADS),
            ids=str(path),
            **self._more,
        )
        self._ids += path.read_text().split("\n")
        return {self._series: float(answer["rate"])}


def enqueue(bench: Bench) -> Finding:
    """Submit without end."""
    finding = Finding("Submitting no-op tasks")
    ids: list[str] = []
    sizes = bench.plan.submitted
    ways: dict[str, Measure] = {
        "submit": Submitting("submit", "submit", sizes["one"], bench, ids, threads=1),
        "raw": Submitting("raw, one", "raw", sizes["one"], bench, ids, chunk=1),
        "threads": Submitting("submit, 16 threads", "submit", sizes["threads"], bench, ids, threads=THREADS),
        "submit_many": Submitting("submit_many", "submit_many", sizes["bulk"], bench, ids, chunk=CHUNK),
        "raw bulk": Submitting("raw, bulk", "raw", sizes["bulk"], bench, ids, chunk=CHUNK),
    }
    series = ["submit", "raw, one", "submit, 16 threads", "submit_many", "raw, bulk"]
    with ExitStack() as stack:
        app = stack.enter_context(bench.site.app(NAME))
        for name in bench.peers.names:
            arena = Arena(name, bench.peers, bench.site)
            stack.callback(arena.close)
            ways[name] = of_peer(f"{name}, bulk", arena, sizes["peers"])
            series.append(f"{name}, bulk")
        in_turns(bench, finding, ways, dict.fromkeys(series, "tasks/s"))
        _prove(app, bench, finding, ids)
    finding.series += _best(finding.series, [f"{name}, bulk" for name in bench.peers.names])
    finding.notes.append(
        f"bulk: calls of {CHUNK:,} tasks; a peer's bulk is a loop over one connection, as it has no other"
    )
    note_peers(finding, bench, [peer.name for peer in PEERS])
    return finding


def of_peer(series: str, arena: Arena, count: int) -> Callable[[float], Mapping[str, float]]:
    """A peer's fastest way to submit many."""

    def measure(share: float) -> Mapping[str, float]:
        arena.empty()
        number = max(int(count * share), 50)
        return {series: number / float(arena.ask("fill", "noop", number)["took_s"])}

    return measure


def _best(found: list[Series], names: list[str]) -> list[Series]:
    rows = [one.values for one in found if one.name in names]
    return [Series(BEST, "tasks/s", [max(run) for run in zip(*rows, strict=True)])] if rows else []


def _prove(app: App, bench: Bench, finding: Finding, ids: list[str]) -> None:
    """Empty the queue, and look for one outcome of each submit."""
    bench.say(f"{finding.title}: all {len(ids):,} of them run, as a proof")
    outcomes = app.layout.queue(app.name).outcomes
    with bench.site.worker(app, runners=2, slots=8) as worker:
        done = f"enqueue: the last of {len(ids):,} outcomes"
        bench.site.until(lambda: delivery.reached(app.broker, outcomes, {}, len(ids)), done, DRAIN_S, worker)
    found = delivery.check(app.broker, outcomes, {}, ids, lambda _, result: result == b"0")
    finding.checked += bench.plan.runs
    finding.problems += found.problems
