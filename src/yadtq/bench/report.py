"""One JSON and one Markdown of what was found.

One invariant: both hold the same; the Markdown is made from what the JSON holds and from nothing else.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from yadtq.bench.scenario import Finding
from yadtq.bench.tally import Series, Spread, spread
from yadtq.bench.target import TARGETS, Target


@dataclass(frozen=True)
class Report:
    """All that a bench found."""

    machine: Mapping[str, str]
    runs: int
    quick: bool
    findings: Mapping[str, Finding]
    began_at: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))

    @property
    def problems(self) -> list[str]:
        """Where the proof of delivery failed, or a scenario could not be run."""
        return [f"{name}: {problem}" for name, finding in self.findings.items() for problem in finding.problems]

    def judged(self) -> Iterator[tuple[Target, Spread | None]]:
        """Each target of the scenarios that ran, with what was reached."""
        for target in TARGETS:
            if target.scenario in self.findings:
                yield target, target.reached(_by_name(self.findings[target.scenario]))

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files; say where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "bench.json", folder / "bench.md"
        paths[0].write_text(json.dumps(self._plain(), indent=2, default=list) + "\n")
        paths[1].write_text(self.markdown())
        return paths

    def _plain(self) -> dict[str, object]:
        scenarios = {
            name: {
                **asdict(finding),
                "series": [{**asdict(one), **asdict(spread(one.values))} for one in finding.series],
            }
            for name, finding in self.findings.items()
        }
        targets = [
            {**asdict(target), "reached": reached and asdict(reached), "met": reached and target.met(reached)}
            for target, reached in self.judged()
        ]
        return {
            "began_at": self.began_at,
            "machine": self.machine,
            "runs": self.runs,
            "quick": self.quick,
            "targets": targets,
            "scenarios": scenarios,
        }

    def markdown(self) -> str:
        lines = ["# How fast", ""]
        lines.append(f"{self.began_at}, {self.runs} runs; the middle, and in brackets the lowest and the highest.")
        if self.quick:
            lines.append("Made with `--quick`: the sizes are too small for the numbers to mean anything.")
        lines += ["", "## Targets", "", "| what | wanted | reached | |", "|---|---|---|---|"]
        lines += [
            f"| {target.what} | {target.wanted} | {_shown(reached)} | {_verdict(target, reached)} |"
            for target, reached in self.judged()
        ]
        for name, finding in self.findings.items():
            lines += ["", f"## {name}", "", *_section(finding)]
        lines += ["", "## Machine", "", "| | |", "|---|---|"]
        lines += [f"| {fact} | {value} |" for fact, value in self.machine.items()]
        return "\n".join(lines) + "\n"


def _section(finding: Finding) -> Iterator[str]:
    yield f"{finding.title}."
    yield ""
    if finding.series:
        yield from ("| | | unit |", "|---|---|---|")
    for one in finding.series:
        yield f"| {one.name} | {_shown(spread(one.values))} | {one.unit} |"
    yield ""
    if finding.checked:
        outcome = "all exact" if not finding.problems else "**not exact**"
        yield f"- Delivery read back after {finding.checked} runs: {outcome}."
    yield from (f"- **Problem**: {problem}" for problem in finding.problems)
    yield from (f"- {note}" for note in finding.notes)


def _by_name(finding: Finding) -> dict[str, Series]:
    return {one.name: one for one in finding.series}


def _verdict(target: Target, reached: Spread | None) -> str:
    if reached is None:
        return "not measured"
    return "reached" if target.met(reached) else "**missed**"


def _shown(value: Spread | None) -> str:
    if value is None:
        return ""
    return f"{_number(value.median)} ({_number(value.low)} .. {_number(value.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
