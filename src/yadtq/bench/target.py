"""What is to be reached, as numbers that a report can judge.

One invariant: a target is judged by the middle of all runs; the spread stands beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from yadtq.bench.tally import Series, Spread, ratios, spread


@dataclass(frozen=True)
class Target:
    """One line of the table: a series, or its ratio to another one of the same scenario, and its bound."""

    scenario: str
    what: str
    series: str
    bound: float
    against: str = ""  # empty: the value itself is judged
    at_most: bool = False

    @property
    def wanted(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}"

    def reached(self, found: Mapping[str, Series]) -> Spread | None:
        """What was reached; None where one of the two was not measured."""
        if self.series not in found or (self.against and self.against not in found):
            return None
        ours = found[self.series].values
        return ratios(ours, found[self.against].values) if self.against else spread(ours)

    def met(self, reached: Spread) -> bool:
        return reached.median <= self.bound if self.at_most else reached.median >= self.bound


TARGETS = (
    Target("drain", "drain, 2 runners x 8 slots, against Celery", "yadtq", 15, "celery"),
    Target("drain", "drain against Dramatiq", "yadtq", 5, "dramatiq"),
    Target("drain", "drain against Huey", "yadtq", 3, "huey"),
    Target("drain", "drain against the hand-written loop", "yadtq", 0.6, "handloop"),
    Target("enqueue", "`submit_many` against a raw loop of produce and QUEUED", "submit_many", 0.5, "raw, bulk"),
    Target("enqueue", "`submit_many` against the best peer's bulk call", "submit_many", 5, "best peer, bulk"),
    Target("enqueue", "`submit`, one thread, against a raw produce-and-wait loop", "submit", 0.7, "raw, one"),
    Target("enqueue", "`submit`, 16 threads against one", "submit, 16 threads", 5, "submit"),
    Target("latency", "submit to start at 200/s, p50 against Celery", "yadtq p50", 1, "celery p50", at_most=True),
    Target("latency", "submit to start at 200/s, p99 in ms", "yadtq p99", 10, at_most=True),
    Target("io", "2,000 x 50 ms at 100 slots, share of the ideal", "yadtq", 0.95),
    Target("cpu", "CPU-bound, 2 runners against two bare processes", "yadtq", 0.95, "bare"),
    Target("recovery", "runner killed, task runs again, p99 in s", "runner killed, p99", 1, at_most=True),
    Target("recovery", "worker killed, task runs again, longest in s", "worker killed, longest", 15, at_most=True),
    Target("memory", "worker and 2 runners idle, against Celery prefork", "yadtq idle", 1, "celery idle", at_most=True),
    Target("memory", "100,000 scheduled tasks add, in MiB", "yadtq scheduled", 5, at_most=True),
    Target("far", "rate left with 2 ms to Redis and 8 ms to Kafka", "far", 0.5, "over a proxy"),
)
