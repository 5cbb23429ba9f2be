"""Dramatiq's side, run in an environment of its own: `dramatiq dramatiq_app`, or as a script to fill and read."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

ADDRESSES = json.loads(Path("dramatiq.json").read_text())  # written by peers.py

backend = RedisBackend(url=ADDRESSES["results"])
broker = RedisBroker(url=ADDRESSES["queue"])
broker.add_middleware(Results(backend=backend))
dramatiq.set_broker(broker)


def noop(n: int) -> int:
    return n


def nap(n: int, nap_s: float) -> tuple[int, int, int]:
    began_ns = time.time_ns()
    time.sleep(nap_s)
    return n, began_ns, time.time_ns()


TASKS = {function.__name__: dramatiq.actor(store_results=True)(function) for function in (noop, nap)}


def fill(task: str, count: str, *more: str) -> dict[str, Any]:
    """Submit in bulk: a group, which is a loop inside."""
    began_s = time.perf_counter()
    for n in range(int(count)):
        TASKS[task].send(n, *map(json.loads, more))
    return {"took_s": time.perf_counter() - began_s}


def results() -> dict[str, Any]:
    found = [backend.client.lindex(key, 0) for key in backend.client.scan_iter("*", 1_000)]
    return {"results": [json.loads(value) for value in found]}


if __name__ == "__main__":
    verbs: dict[str, Callable[..., dict[str, Any]]] = {"fill": fill, "results": results}
    print(json.dumps(verbs[sys.argv[1]](*sys.argv[2:])))
