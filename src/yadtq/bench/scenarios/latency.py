"""How long from a submit to the start of the code, at a steady rate that leaves the workers idle most of the time.

Each task notes its own start and returns how long after its due moment that was; both clocks are this machine's. A
submitter that cannot keep up is late for the next task too, and that counts.
"""

from contextlib import ExitStack

import msgspec

from yadtq.bench.contestants.peers import Arena
from yadtq.bench.ours import Ours
from yadtq.bench.scenario import Bench, Finding, Measure, in_turns, note_peers
from yadtq.bench.tally import percentile
from yadtq.bench.tasks import find

NAME = "latency"
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
WARM = 50
DONE_S = 60.0


def figures(name: str, late_ns: list[int]) -> dict[str, float]:
    return {f"{name} {word}": percentile(late_ns, share) / 1e6 for word, share in SHARES.items()}


class Stamped(Ours):
    def __call__(self, share: float) -> dict[str, float]:
        site, plan = self._bench.site, self._bench.plan
        path = site.folder / "submitted"
        since = self._since()
        with site.worker(self._app, runners=2, slots=8) as worker:
            first = [handle.task_id for handle in find(self._app, "stamp").submit_many([(-1, 0)] * WARM)]
            self._await(since, WARM, "the first outcomes", DONE_S, worker)
            site.act(
                "offer",
                kafka=site.kafka,
                redis=site.redis,
                prefix=self._app.settings.prefix,
                count=max(int(plan.offered * share), 20),
                rate=plan.offered_rate,
                ids=str(path),
            )
            ids = first + path.read_text().split("\n")
            self._await(since, len(ids), "the last outcome", DONE_S, worker)
        found = self._check(since, ids, lambda _, result: result.startswith(b"["))
        answers = [msgspec.json.decode(outcome.result, type=tuple[int, int]) for outcome in found.outcomes.values()]
        return figures("yadtq", [late_ns for n, late_ns in answers if n >= 0])


class Celery:
    def __init__(self, arena: Arena, bench: Bench, finding: Finding) -> None:
        self._arena = arena
        self._bench = bench
        self._finding = finding

    def __call__(self, share: float) -> dict[str, float]:
        count = max(int(self._bench.plan.offered * share), 20)
        self._arena.empty()
        self._arena.ask("fill", "stamp", WARM, 0)  # warms it up; these are told by their time
        with self._arena.working() as process:
            self._arena.follow(WARM, process)
            self._arena.forget()
            self._arena.ask("offer", self._bench.plan.offered_rate, count)
            self._arena.follow(count + 1, process)
        answers = [late for n, late in self._arena.results() if n >= 0]
        self._finding.checked += 1
        if len(answers) != count:
            self._finding.problems.append(f"celery: {count - len(answers)} results are missing")
        return figures("celery", answers)


def latency(bench: Bench) -> Finding:
    """Submit at a steady rate."""
    finding = Finding(f"From submit to start, at {bench.plan.offered_rate:g} tasks a second")
    with ExitStack() as stack:
        contestants: dict[str, Measure] = {"yadtq": Stamped(stack.enter_context(bench.site.app(NAME)), bench, finding)}
        if "celery" in bench.peers.names:
            arena = Arena("celery", bench.peers, bench.site)
            stack.callback(arena.close)
            contestants["celery"] = Celery(arena, bench, finding)
        units = {f"{name} {word}": "ms" for name in contestants for word in SHARES}
        in_turns(bench, finding, contestants, units)
    note_peers(finding, bench, ["celery"])
    return finding
