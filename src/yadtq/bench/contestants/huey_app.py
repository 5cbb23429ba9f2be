"""Huey's side, run in an environment of its own: `huey_consumer.py huey_app.huey`, or as a script to fill and read."""

import json
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huey import RedisHuey

ADDRESSES = json.loads(Path("huey.json").read_text())  # written by peers.py

huey = RedisHuey("peer", url=ADDRESSES["queue"])


def noop(n: int) -> int:
    return n


def nap(n: int, nap_s: float) -> tuple[int, int, int]:
    began_ns = time.time_ns()
    time.sleep(nap_s)
    return n, began_ns, time.time_ns()


FUNCTIONS = (noop, nap)
for function in FUNCTIONS:
    function.__module__ = "huey_app"  # it is part of a task's name, and a script's own is __main__
TASKS = {function.__name__: huey.task()(function) for function in FUNCTIONS}


def fill(task: str, count: str, *more: str) -> dict[str, Any]:
    """Submit one after the other: there is no bulk call."""
    began_s = time.perf_counter()
    for n in range(int(count)):
        TASKS[task](n, *map(json.loads, more))
    return {"took_s": time.perf_counter() - began_s}


def results() -> dict[str, Any]:
    found = huey.storage.conn.hvals("huey.results.peer")
    return {"results": [pickle.loads(value) for value in found]}


if __name__ == "__main__":
    verbs: dict[str, Callable[..., dict[str, Any]]] = {"fill": fill, "results": results}
    print(json.dumps(verbs[sys.argv[1]](*sys.argv[2:])))
