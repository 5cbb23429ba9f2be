"""Numbers of several runs: the middle, the spread, and ratios of what ran side by side.

One invariant: a ratio is taken within one run, before the middle is; a slow minute of the machine slows both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several runs, and how far they lie apart."""

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True, slots=True)
class Series:
    """What one contestant reached, run by run. A higher `values` is better only where the unit is a rate."""

    name: str
    unit: str
    values: Sequence[float]


def spread(values: Sequence[float]) -> Spread:
    """Sum up the runs."""
    return Spread(median(values), min(values), max(values), len(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The ratio of two contestants, run by run."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all values do not pass."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def rate(timeline: Sequence[tuple[float, int]], total: int, skipped: float = 0.1) -> float:
    """How many a second were done.

    Args:
        timeline: Moments in seconds, each with how many were done by then; ascending.
        total: How many there are.
        skipped: The share that is left out at the beginning, where a contestant only gets going.
    """
    began_s, before = next((at, done) for at, done in timeline if done >= total * skipped)
    ended_s = next(at for at, done in timeline if done >= total)
    return (total - before) / max(ended_s - began_s, 1e-6)
