"""What a scenario is: something that measures its contestants in turn and says what it found.

One invariant: contestants take turns within a run, so that what changes in the machine meets all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from yadtq.bench.contestants.peers import Peers
from yadtq.bench.plan import Plan
from yadtq.bench.site import Site
from yadtq.bench.tally import Series

Say = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """What every scenario is given."""

    site: Site
    plan: Plan
    peers: Peers
    say: Say


@dataclass
class Finding:
    """What one scenario found."""

    title: str
    series: list[Series] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of the proof of delivery; empty is what it should be
    checked: int = 0  # runs whose delivery was read back


class Scenario(Protocol):
    """A file in `scenarios`."""

    def __call__(self, bench: Bench) -> Finding: ...


Measure = Callable[[float], Mapping[str, float]]  # with the share of the full size; what was reached, by series


def in_turns(bench: Bench, finding: Finding, contestants: Mapping[str, Measure], units: Mapping[str, str]) -> None:
    """Let the contestants take turns, once to warm up and then run by run, and note what they reached."""
    if bench.plan.warm_share:
        for name, measure in contestants.items():
            bench.say(f"{finding.title}: {name} warms up")
            measure(bench.plan.warm_share)
        finding.checked = 0
    reached: dict[str, list[float]] = {}
    for run in range(bench.plan.runs):
        for name, measure in contestants.items():
            values = measure(1.0)
            for series, value in values.items():
                reached.setdefault(series, []).append(value)
            shown = ", ".join(f"{series} {value:,.4g} {units[series]}" for series, value in values.items())
            bench.say(f"{finding.title}, run {run + 1}: {name}: {shown}")
    finding.series += [Series(name, units[name], values) for name, values in reached.items()]


def note_peers(finding: Finding, bench: Bench, names: Sequence[str]) -> None:
    """Say which peers are missing and how those that are there are set."""
    finding.notes += [bench.peers.note(name) for name in names]
