"""An app as a user has one, for the dramas with `yadtq worker`."""

import os
import time

import yadtq

app = yadtq.App("q")


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def nap(seconds: float) -> int:
    """Sleep, and return who slept."""
    time.sleep(seconds)
    return os.getpid()


@app.task(time_limit_s=1.0)
def spin() -> None:
    """Never end."""
    while True:
        pass


@app.task
def crash() -> None:
    """Take the process with it."""
    os.abort()
