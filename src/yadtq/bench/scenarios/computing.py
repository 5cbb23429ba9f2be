"""What two runners lose against two bare processes that do the same Python work."""

import json
import sys
import time
from contextlib import ExitStack

from yadtq.bench.ours import Ours
from yadtq.bench.scenario import Bench, Finding, Measure, in_turns
from yadtq.bench.tally import rate
from yadtq.bench.tasks import find
from yadtq.dev.process import wait_until

NAME = "cpu"
ROUNDS = 500_000  # about 30 ms
READY_S = 1.5
DONE_S = 120.0


class Busy(Ours):
    def __call__(self, share: float) -> dict[str, float]:
        count = max(int(self._bench.plan.crunched * share), 10)
        since = self._since()
        handles = find(self._app, "crunch").submit_many([(n, ROUNDS) for n in range(count)])
        expected = {handle.task_id: str(n).encode() for n, handle in enumerate(handles)}
        with self._bench.site.worker(self._app, runners=2, slots=1) as worker:
            self._await(since, count, "the last outcome", DONE_S, worker)
        found = self._check(since, list(expected), lambda key, result: result == expected[key])
        return {"yadtq": rate(found.timeline, count)}


def bare(bench: Bench, share: float) -> dict[str, float]:
    """Two processes that work from the same moment on."""
    each = max(int(bench.plan.crunched * share), 10) // 2
    begin_ns = time.time_ns() + int(READY_S * 1e9)
    words = json.dumps({"rounds": ROUNDS, "count": each, "begin_ns": begin_ns})
    names = ("bare-1", "bare-2")
    with ExitStack() as stack:
        processes = []
        for name in names:
            bench.site.log(name).unlink(missing_ok=True)
            command = [sys.executable, "-m", "yadtq.bench.actor", "bare", words]
            processes.append(stack.enter_context(bench.site.running(name, command)))
        wait_until(lambda: not any(process.alive for process in processes), DONE_S, bench.site.interrupt)
    ended_ns = max(json.loads(bench.site.log(name).read_text())["ended_ns"] for name in names)
    return {"bare": 2 * each / ((ended_ns - begin_ns) / 1e9)}


def computing(bench: Bench) -> Finding:
    """Run tasks that keep the cores busy."""
    finding = Finding("Tasks that compute, 2 runners of 1 slot")
    with bench.site.app(NAME) as app:
        contestants: dict[str, Measure] = {
            "yadtq": Busy(app, bench, finding),
            "bare": lambda share: bare(bench, share),
        }
        in_turns(bench, finding, contestants, dict.fromkeys(contestants, "tasks/s"))
    return finding
