"""YADTQ itself among the contestants: what its workers did, with the proof of delivery.

One invariant: a figure is given only for outcomes that were read back, and what is wrong with them is in the finding.
"""

from collections.abc import Callable, Mapping, Sequence

from yadtq.app import App
from yadtq.bench import delivery
from yadtq.bench.delivery import Delivery
from yadtq.bench.scenario import Bench, Finding
from yadtq.broker import TopicPartition
from yadtq.dev.process import Process


class Ours:
    """A measure of one app. A scenario says in `__call__` what is measured."""

    def __init__(self, app: App, bench: Bench, finding: Finding) -> None:
        self._app = app
        self._bench = bench
        self._finding = finding
        self._outcomes = app.layout.queue(app.name).outcomes

    def _since(self) -> Mapping[TopicPartition, int]:
        """Where the outcomes of what is submitted from now on begin."""
        return delivery.ends(self._app.broker, self._outcomes)

    def _await(
        self, since: Mapping[TopicPartition, int], count: int, what: str, timeout_s: float, worker: Process
    ) -> None:
        """Wait for so many outcomes."""
        broker, outcomes = self._app.broker, self._outcomes
        self._bench.site.until(
            lambda: delivery.reached(broker, outcomes, since, count), what, timeout_s, worker, delivery.LOOK_S
        )

    def _check(
        self, since: Mapping[TopicPartition, int], ids: Sequence[str], right: Callable[[str, bytes], bool]
    ) -> Delivery:
        """Read the outcomes back, and note what is wrong with them."""
        found = delivery.check(self._app.broker, self._outcomes, since, ids, right)
        self._finding.checked += 1
        self._finding.problems += found.problems
        return found
