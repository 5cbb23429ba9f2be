"""Which process spends how much processor time a task, to see where the time of a rate goes.

One invariant: the system counts it, from outside; what is measured does nothing for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

from yadtq.dev import minder


@dataclass
class Cost:
    """The processor seconds of some processes and their families since the first look."""

    roots: Mapping[str, int]  # what to call each, and its pid
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    began: int = 0
    done: int = 0

    def look(self, done: int) -> None:
        """Note what has been spent by now, and how many tasks that has done."""
        self.last, self.done = spent(self.roots), done
        if not self.first:
            self.first, self.began = self.last, done

    def per_task_us(self) -> dict[str, float]:
        """Microseconds a task, by process."""
        tasks = max(self.done - self.began, 1)
        return {name: (self.last[name] - self.first[name]) / tasks * 1e6 for name in self.first if name in self.last}


def spent(roots: Mapping[str, int]) -> dict[str, float]:
    """Processor seconds by name; children are told apart from their parent."""
    found: dict[str, float] = {}
    for name, pid in roots.items():
        try:
            root = psutil.Process(pid)
            found[name] = _seconds(root)
            children = [child for child in root.children(recursive=True) if minder.__file__ not in child.cmdline()]
            below = sum(_seconds(child) for child in children)
        except psutil.NoSuchProcess:
            continue
        if children:
            found[f"{name}'s children"] = below
    return found


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
