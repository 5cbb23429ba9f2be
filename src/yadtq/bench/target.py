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
)
