"""The tasks that are measured, for a worker as `yadtq.bench.tasks:app` and for whoever submits them.

One invariant: each returns what proves that it ran as it should.
"""

import os
import time
from pathlib import Path
from typing import Any

from yadtq.app import App
from yadtq.settings import Settings
from yadtq.task import Task

QUEUE = "bench"


def noop(n: int) -> int:
    """Nothing: what is measured is everything around it."""
    return n


def nap(n: int, nap_s: float) -> tuple[int, int, int]:
    """Wait as for a slow service; from when to when, in ns."""
    began_ns = time.time_ns()
    time.sleep(nap_s)
    return n, began_ns, time.time_ns()


def crunch(n: int, rounds: int) -> int:
    """Keep a core busy in Python code."""
    work(rounds)
    return n


def stamp(n: int, due_ns: int) -> tuple[int, int]:
    """How long after `due_ns` the code started, in ns; both clocks are this machine's."""
    return n, time.time_ns() - due_ns


def hold(name: str, folder: str, hold_s: float) -> int:
    """Note the start, and hold out to be killed; when it runs again it returns at once. The result: how many starts."""
    first = Path(folder, name)
    again = first.exists()
    path = first.with_suffix(".again") if again else first
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(f"{time.time_ns()} {os.getpid()}")
    draft.rename(path)  # whoever sees the note sees all of it
    if not again:
        time.sleep(hold_s)
    return 1 + again


def work(rounds: int) -> int:
    """The same work for a task and for a bare process."""
    total = 0
    for at in range(rounds):
        total += at * at % 7
    return total


def build(settings: Settings | None = None) -> App:
    """An app with these tasks."""
    app = App(QUEUE, settings=settings)
    for function in (noop, nap, crunch, stamp, hold):
        app.task(function)
    return app


def find(app: App, name: str) -> Task[..., Any]:
    """The task of an app by its name."""
    task = app.registry.get(name)
    if task is None:
        raise KeyError(name)
    return task


app = build()
