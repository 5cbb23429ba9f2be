"""How well 100 slots are used by 2,000 tasks that wait for 50 ms: 1 is the ideal, all slots busy all the time.

The workers are warm and the tasks come in bulk; counted is from the first start to the last end, as the tasks note it.
"""

from contextlib import ExitStack

import msgspec

from yadtq.bench.contestants.peers import PEERS, Arena
from yadtq.bench.ours import Ours
from yadtq.bench.scenario import Bench, Finding, Measure, in_turns, note_peers
from yadtq.bench.tasks import find

NAME = "io"
SLOTS = 100
NAP_S = 0.05
WARM = 100
DONE_S = 120.0


def use(naps: list[tuple[int, int, int]]) -> float:
    """The share of the slots' time in which something ran."""
    span_s = (max(ended for _, _, ended in naps) - min(began for _, began, _ in naps)) / 1e9
    return len(naps) * NAP_S / SLOTS / span_s


class Napping(Ours):
    def __call__(self, share: float) -> dict[str, float]:
        count = max(int(self._bench.plan.napped * share), SLOTS)
        nap = find(self._app, "nap")
        since = self._since()
        with self._bench.site.worker(self._app, runners=2, slots=SLOTS // 2) as worker:
            warm = [handle.task_id for handle in nap.submit_many([(-1, NAP_S)] * WARM)]
            self._await(since, WARM, "the first naps", DONE_S, worker)
            ids = warm + [handle.task_id for handle in nap.submit_many([(n, NAP_S) for n in range(count)])]
            self._await(since, len(ids), "the last nap", DONE_S, worker)
        found = self._check(since, ids, lambda _, result: result.startswith(b"["))
        naps = [msgspec.json.decode(outcome.result, type=tuple[int, int, int]) for outcome in found.outcomes.values()]
        return {"yadtq": use([one for one in naps if one[0] >= 0])}


class OfPeer:
    def __init__(self, name: str, arena: Arena, bench: Bench, finding: Finding) -> None:
        self._name = name
        self._arena = arena
        self._bench = bench
        self._finding = finding

    def __call__(self, share: float) -> dict[str, float]:
        count = max(int(self._bench.plan.napped * share), SLOTS)
        self._arena.empty()
        with self._arena.working("io") as process:
            self._arena.ask("fill", "nap", WARM, NAP_S)
            self._arena.follow(WARM, process)
            self._arena.forget()
            self._arena.ask("fill", "nap", count, NAP_S)
            self._arena.follow(count, process)
        naps = [(n, began, ended) for n, began, ended in self._arena.results()]
        self._finding.checked += 1
        if sorted(n for n, _, _ in naps) != list(range(count)):
            self._finding.problems.append(f"{self._name}: the results are not one of each task")
        return {self._name: use(naps)}


def waiting(bench: Bench) -> Finding:
    """Run tasks that wait."""
    finding = Finding(f"{bench.plan.napped:,} tasks of {NAP_S * 1000:g} ms at {SLOTS} slots, as a share of the ideal")
    with ExitStack() as stack:
        contestants: dict[str, Measure] = {"yadtq": Napping(stack.enter_context(bench.site.app(NAME)), bench, finding)}
        for name in bench.peers.names:
            arena = Arena(name, bench.peers, bench.site)
            stack.callback(arena.close)
            contestants[name] = OfPeer(name, arena, bench, finding)
        in_turns(bench, finding, contestants, dict.fromkeys(contestants, "of ideal"))
    finding.notes.append(
        "Celery with `-P threads -c 100`, Dramatiq with 2 processes of 50 threads, Huey with 100 threads"
    )
    finding.notes.append("a peer that submits more slowly than it works waits for its submitter")
    note_peers(finding, bench, [peer.name for peer in PEERS])
    return finding
