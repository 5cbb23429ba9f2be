"""What is measured in a process of its own: `python -m yadtq.bench.actor NAME JSON`; its last line is the answer.

One invariant: the clock starts when everything is connected and warm.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yadtq.app import App
from yadtq.bench import tasks
from yadtq.bench.contestants.raw import Raw
from yadtq.settings import Address, Settings

WARM = 50


def connect(kafka: str, redis: str, prefix: str) -> App:
    app = tasks.build(Settings(Address(kafka, "bench"), Address(redis, "bench"), prefix=prefix))
    tasks.find(app, "noop").submit_many([])  # opens the producer
    return app


def note(path: str, ids: Sequence[str]) -> None:
    """Say which tasks were submitted, one a line, in any order."""
    Path(path).write_text("\n".join(ids))


def submit(kafka: str, redis: str, prefix: str, count: int, threads: int, ids: str) -> dict[str, Any]:
    """One call after the other, on each of so many threads."""
    noop = tasks.find(connect(kafka, redis, prefix), "noop")
    handles = [noop.submit(0) for _ in range(WARM)]
    share = count // threads
    lock = threading.Lock()

    def some() -> None:
        mine = [noop.submit(0) for _ in range(share)]
        with lock:
            handles.extend(mine)

    began_s = time.perf_counter()
    running = [threading.Thread(target=some) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    took_s = time.perf_counter() - began_s
    note(ids, [handle.task_id for handle in handles])
    return {"rate": share * threads / took_s}


def submit_many(kafka: str, redis: str, prefix: str, count: int, chunk: int, ids: str) -> dict[str, Any]:
    """Bulk calls of `chunk` tasks each."""
    noop = tasks.find(connect(kafka, redis, prefix), "noop")
    handles = noop.submit_many([(0,)] * WARM)
    began_s = time.perf_counter()
    for _ in range(0, count, chunk):
        handles += noop.submit_many([(0,)] * chunk)
    took_s = time.perf_counter() - began_s
    note(ids, [handle.task_id for handle in handles])
    return {"rate": (len(handles) - WARM) / took_s}


def raw(kafka: str, redis: str, prefix: str, count: int, chunk: int, ids: str) -> dict[str, Any]:
    """The same without YADTQ."""
    submitter = Raw(kafka, redis, prefix)
    found = [task_id for _ in range(WARM) for task_id in submitter.submit([0])]
    began_s = time.perf_counter()
    for _ in range(0, count, chunk):
        found += submitter.submit([0] * chunk)
    took_s = time.perf_counter() - began_s
    note(ids, found)
    return {"rate": (len(found) - WARM) / took_s}


def offer(kafka: str, redis: str, prefix: str, count: int, rate: float, ids: str) -> dict[str, Any]:
    """Submit at a steady rate, whatever becomes of it; each task is told when it was due."""
    stamp = tasks.find(connect(kafka, redis, prefix), "stamp")
    handles = [stamp.submit(-1, time.time_ns()) for _ in range(WARM)]
    time.sleep(0.2)
    began_ns, step_ns = time.time_ns(), int(1e9 / rate)
    for n in range(count):
        due_ns = began_ns + n * step_ns
        time.sleep(max(due_ns - time.time_ns(), 0) / 1e9)
        handles.append(stamp.submit(n, due_ns))
    took_s = (time.time_ns() - began_ns) / 1e9
    note(ids, [handle.task_id for handle in handles])
    return {"rate": count / took_s}


def bare(rounds: int, count: int, begin_ns: int) -> dict[str, Any]:
    """The work of the CPU-bound tasks in a loop, from a moment on that is the same for all."""
    tasks.work(rounds)
    time.sleep(max(begin_ns - time.time_ns(), 0) / 1e9)
    for _ in range(count):
        tasks.work(rounds)
    return {"ended_ns": time.time_ns()}


ACTORS: dict[str, Callable[..., dict[str, Any]]] = {
    actor.__name__: actor for actor in (submit, submit_many, raw, offer, bare)
}


if __name__ == "__main__":
    print(json.dumps(ACTORS[sys.argv[1]](**json.loads(sys.argv[2]))))
