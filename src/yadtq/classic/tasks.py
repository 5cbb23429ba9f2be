"""The built-in example tasks.

The arithmetic takes strings or numbers, as task files have them, and converts inside the task: what is no number fails
there, is tried again, and ends with its error log.
"""

import asyncio
import random

from yadtq.app import App

Number = str | int | float

app = App("tasks")


@app.task
def add(a: Number, b: Number) -> int | float:
    """a + b"""
    return number(a) + number(b)


@app.task
def sub(a: Number, b: Number) -> int | float:
    """a - b"""
    return number(a) - number(b)


@app.task
def mul(a: Number, b: Number) -> int | float:
    """a * b"""
    return number(a) * number(b)


@app.task
def div(a: Number, b: Number) -> int | float:
    """a / b"""
    return number(a) / number(b)


@app.task
async def sleep(seconds: Number) -> int | float:
    """Wait for so many seconds and return them."""
    await asyncio.sleep(number(seconds))
    return number(seconds)


@app.task
def fail(message: str = "this task always fails") -> None:
    """Fail every time."""
    raise RuntimeError(message)


@app.task
def flaky(chance: Number = 0.5) -> str:
    """Fail with this chance, from 0 to 1."""
    if random.random() < number(chance):
        raise RuntimeError("bad luck this time")
    return "good luck"


def number(value: Number) -> int | float:
    """Read a number, whole if it is written so."""
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        return float(value)
