"""The tasks that runners are tested with, for runners of this process and for children alike."""

import asyncio
import contextvars
import ctypes
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from yadtq.app import App

app = App("r")
hoard: list[bytes] = []


def note(path: str, line: str) -> None:
    """A witness that outlives whoever writes to it."""
    with open(path, "ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


@app.task
def nothing() -> None:
    return


@app.task
def double(n: int) -> int:
    return 2 * n


@app.task
async def double_async(n: int) -> int:
    return 2 * n


@app.task
def wait(gate: str) -> int:
    """Until the gate is open: a lock that the test holds, which threads and processes wait for alike."""
    with open(gate) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    return os.getpid()


@app.task
async def wait_async(gate: str) -> int:
    return await asyncio.to_thread(wait.function, gate)


@app.task
def witnessed(path: str, number: int) -> int:
    note(path, f"start {number}")
    note(path, f"end {number}")
    return number


@app.task
async def witnessed_async(path: str, number: int) -> int:
    note(path, f"start {number}")
    note(path, f"end {number}")
    return number


@app.task
def whereabouts() -> int:
    return os.getpid()


@app.task
async def crowd(path: str) -> None:
    note(path, "in")
    await asyncio.sleep(0.001)
    note(path, "out")


@app.task
def echo(text: str) -> str:
    return text


@app.task
def echo_noted(path: str, text: str) -> str:
    note(path, "echoed")
    return text


@app.task
def wait_noted(path: str, gate: str) -> None:
    note(path, "waits")
    wait(gate)


@app.task
def leave() -> None:
    sys.exit(7)


@app.task
async def leave_async() -> None:
    sys.exit(7)


@app.task
def leave_at_once() -> None:
    os._exit(3)


@app.task
def crash() -> None:
    ctypes.string_at(0)


@app.task
def endless(n: int) -> int:
    return endless(n + 1)


@app.task
def thing() -> Any:
    return object()


@app.task
def big() -> str:
    return "x" * 2_000


@app.task
def rude() -> None:
    class RudeError(Exception):
        def __str__(self) -> str:
            raise ValueError("no message for you")

    raise RudeError


@app.task
def long_error() -> None:
    raise RuntimeError("y" * 100_000 + " the end")


@app.task
def loaded() -> list[str]:
    return sorted({name.partition(".")[0] for name in sys.modules})


@app.task
def swell(megabytes: int) -> None:
    hoard.append(b"x" * (megabytes << 20))


@app.task
def with_family(path: str, gate: str) -> None:
    """Start a program that would outlive this process, say who is here, and wait."""
    program = subprocess.Popen(["sleep", "600"])
    note(path, f"{os.getpid()} {program.pid}")
    wait(gate)


@app.task
def with_heir(path: str, gate: str) -> None:
    """Leave the group with a fork that holds every descriptor of this process, and wait."""
    runner = os.getpid()
    if os.fork() == 0:
        os.setsid()
        note(path, f"{runner} {os.getpid()}")  # only now: until here the end of the group is its end too
        ctypes.CDLL(None).sleep(600)
        os._exit(0)
    wait(gate)


@app.task
def hold_the_interpreter(path: str) -> None:
    """No other thread of this process moves, not even the one that reads."""
    note(path, f"{os.getpid()} {os.getpid()}")
    ctypes.PyDLL(None).sleep(600)


@app.task
def hold_the_interpreter_for(seconds: int) -> int:
    ctypes.PyDLL(None).sleep(seconds)
    return os.getpid()


@app.task(time_limit_s=0.5)
def spin() -> None:
    while True:
        pass


@app.task(time_limit_s=0.5)
async def linger() -> None:
    await asyncio.sleep(600)


@app.task(time_limit_s=0.5)
def linger_in_c(path: str) -> None:
    hold_the_interpreter(path)


@app.task(isolation="process")
def alone(gate: str) -> int:
    return wait(gate)


@app.task
def signals() -> list[str]:
    """What a program that is started here inherits."""
    shown = subprocess.run(["sh", "-c", "kill -TERM $$; echo alive"], capture_output=True, text=True)
    return [shown.stdout.strip(), str(shown.returncode)]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@app.task
def parent(*numbers: int) -> list[str]:
    """Submit a child for each number."""
    return [double.submit(number).task_id for number in numbers]


@app.task
async def parent_async(*numbers: int) -> list[str]:
    handles = await asyncio.gather(*(double_async.submit_async(number) for number in numbers))
    return [handle.task_id for handle in handles]


@app.task
def parent_of_many(*numbers: int) -> list[str]:
    return [handle.task_id for handle in double.submit_many([[number] for number in numbers])]


@app.task
def parent_of_chosen(task_id: str) -> str:
    return double.using(task_id=task_id, key="k", queue="elsewhere", max_attempts=7).submit(1).task_id


@app.task
def bad_parent() -> str:
    double.submit("x")  # type: ignore[arg-type]
    return "published"


@app.task
def curious_parent(how: str) -> str:
    """Look at a child from inside."""
    handle = double.submit(1)
    return str(handle.status() if how == "status" else handle.result(1))


@app.task
def parent_with_a_thread() -> str:
    said: list[str] = []

    def submit() -> None:
        try:
            double.submit(1)
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join()
    thread = threading.Thread(target=contextvars.copy_context().run, args=[submit])
    thread.start()
    thread.join()
    return "; ".join(said)


@app.task
async def parent_that_leaves_something(path: str) -> None:
    """End before a submit that goes on."""

    async def late() -> None:
        try:
            await asyncio.sleep(0.3)
            await double_async.submit_async(1)
        except Exception as error:
            note(path, type(error).__name__)

    asyncio.get_running_loop().create_task(late())
