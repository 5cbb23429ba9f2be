"""An app as a user has one, for the dramas with `yadtq worker`."""

import fcntl
import os
import time
from pathlib import Path

import yadtq
import yadtq.within

app = yadtq.App("q")


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def nap(seconds: float) -> int:
    """Sleep, and return who slept."""
    time.sleep(seconds)
    return os.getpid()


@app.task
def wait(gate: str) -> int:
    """Until the drama lets go of this file; return who waited."""
    with open(gate) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    return os.getpid()


@app.task
def fails_once(mark: str, seconds: float, after_s: float | None) -> str:
    """Fail in the first run: by itself, or by asking for another after a time."""
    time.sleep(seconds)
    folder = Path(os.environ["WITNESS"] + ".failed")
    folder.mkdir(exist_ok=True)
    try:
        (folder / mark).touch(exist_ok=False)
    except FileExistsError:
        return mark
    if after_s is None:
        raise ValueError(mark)
    raise yadtq.Retry(after_s=after_s)


@app.task(time_limit_s=1.0)
def spin() -> None:
    """Never end."""
    while True:
        pass


@app.task
def crash() -> None:
    """Take the process with it."""
    os.abort()


@app.task
def fan_out(count: int, pause_s: float, delay_s: float = 0.0) -> list[str]:
    """Submit so many tasks, and go on for a while."""
    ids = [add.using(delay_s=delay_s).submit(n, 1).task_id for n in range(count)]
    time.sleep(pause_s)
    return ids


@app.task
def once_more(wait_s: float) -> int:
    """Ask to be run again, the first time."""
    me = yadtq.within.here.get()
    assert me is not None
    if me.attempt.attempt == 1:
        raise yadtq.Retry(after_s=wait_s)
    return me.attempt.attempt


@app.task
def give(what: str, size: int) -> object:
    """Return what no JSON can hold, or a text of this size."""
    return object() if what == "odd" else "x" * size
