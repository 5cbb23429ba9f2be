"""Celery's side, run in an environment of its own: `celery -A celery_app worker`, or as a script to fill and read."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

ADDRESSES = json.loads(Path("celery.json").read_text())  # written by peers.py

app = Celery("peer", broker=ADDRESSES["queue"], backend=ADDRESSES["results"])


def noop(n: int) -> int:
    return n


def nap(n: int, nap_s: float) -> tuple[int, int, int]:
    began_ns = time.time_ns()
    time.sleep(nap_s)
    return n, began_ns, time.time_ns()


def stamp(n: int, due_ns: int) -> tuple[int, int]:
    return n, time.time_ns() - due_ns


TASKS = {function.__name__: app.task(name=function.__name__)(function) for function in (noop, nap, stamp)}


def fill(task: str, count: str, *more: str) -> dict[str, Any]:
    """Submit in bulk, over one connection."""
    began_s = time.perf_counter()
    with app.producer_pool.acquire(block=True) as producer:
        for n in range(int(count)):
            TASKS[task].apply_async((n, *map(json.loads, more)), producer=producer)
    return {"took_s": time.perf_counter() - began_s}


def offer(rate: str, count: str) -> dict[str, Any]:
    """Submit at a steady rate, whatever becomes of it."""
    TASKS["stamp"].apply_async((-1, time.time_ns()))  # opens the connection
    time.sleep(0.2)
    began_ns, step_ns = time.time_ns(), int(1e9 / float(rate))
    for n in range(int(count)):
        due_ns = began_ns + n * step_ns
        time.sleep(max(due_ns - time.time_ns(), 0) / 1e9)
        TASKS["stamp"].apply_async((n, due_ns))
    return {"took_s": (time.time_ns() - began_ns) / 1e9}


def schedule(count: str, delay_s: str) -> dict[str, Any]:
    """Submit for later."""
    began_s = time.perf_counter()
    with app.producer_pool.acquire(block=True) as producer:
        for n in range(int(count)):
            TASKS["noop"].apply_async((n,), countdown=float(delay_s), producer=producer)
    return {"took_s": time.perf_counter() - began_s}


def results() -> dict[str, Any]:
    client = app.backend.client
    keys = list(client.scan_iter("celery-task-meta-*", 1_000))
    found = [json.loads(value) for value in client.mget(keys)] if keys else []
    return {"results": [meta["result"] if meta["status"] == "SUCCESS" else None for meta in found]}


if __name__ == "__main__":
    verbs: dict[str, Callable[..., dict[str, Any]]] = {
        "fill": fill,
        "offer": offer,
        "schedule": schedule,
        "results": results,
    }
    print(json.dumps(verbs[sys.argv[1]](*sys.argv[2:])))
