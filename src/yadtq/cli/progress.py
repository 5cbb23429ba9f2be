"""Shows how a start goes on: bars in a terminal, plain lines anywhere else. On stderr, so that
stdout stays for answers.

One invariant: a line is printed when something changed, never because time passed.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from yadtq.dev.jars import OnProgress
    from yadtq.dev.node import Reporter

NAMES = {"kafka": "Kafka", "redis": "Valkey", "web": "Web app"}
DONE = ("ready", "stopped")  # what a service does last in a command


@contextmanager
def reporter(stream: TextIO = sys.stderr) -> "Iterator[Reporter]":
    """A reporter that fits the stream."""
    if not stream.isatty():
        yield Lines(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description:<8}"), BarColumn(24))
    console = Console(file=stream)
    with Progress(*columns, TextColumn("{task.fields[doing]}"), TimeElapsedColumn(), console=console) as progress:
        yield Bars(progress)


class Lines:
    """A line for each change."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def state(self, service: str, text: str) -> None:
        self.note(f"{NAMES[service]}: {text}")

    @contextmanager
    def download(self, text: str) -> "Iterator[OnProgress]":
        tenths = -1

        def on_progress(done: int, total: int, done_bytes: int) -> None:
            nonlocal tenths
            if done * 10 // total > tenths:
                tenths = done * 10 // total
                self.note(f"{text}: {done} of {total} files, {done_bytes / 1e6:.0f} MB")

        yield on_progress


class Bars:
    """A bar for each service and for a download."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)

    def state(self, service: str, text: str) -> None:
        task = self._task(NAMES[service])
        done = text in DONE
        self._progress.update(task, doing=text, total=1 if done else None, completed=1 if done else 0)

    @contextmanager
    def download(self, text: str) -> "Iterator[OnProgress]":
        def on_progress(done: int, total: int, done_bytes: int) -> None:
            doing = f"{text}: {done} of {total} files, {done_bytes / 1e6:.1f} MB"
            self._progress.update(self._task("Download"), total=total, completed=done, doing=doing)

        yield on_progress

    def _task(self, name: str) -> "TaskID":
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None, doing="")
        return self._tasks[name]
