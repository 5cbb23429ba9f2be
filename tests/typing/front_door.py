"""Checked by mypy, never run: what an editor says about the front door."""

import asyncio
from typing import assert_type

import yadtq

app = yadtq.App("demo")


@app.task
def add(a: int, b: int = 0) -> int:
    """Add."""
    return a + b


@app.task(name="shout", max_attempts=5)
def shout(text: str, *, loud: bool = False) -> str:
    """Shout."""
    return text.upper() if loud else text


@app.task
async def fetch(url: str) -> bytes:
    """Fetch."""
    await asyncio.sleep(0)
    return url.encode()


async def waits() -> None:
    """Awaits handles."""
    assert_type(await add.submit(1, 2), int)
    assert_type(await (await fetch.submit_async("u")), bytes)


assert_type(add.submit(1, 2).result(), int)
assert_type(add(1, 2), int)
assert_type(add.using(queue="other").submit(1).result(timeout_s=10), int)
assert_type(shout.submit("x", loud=True).result(), str)
assert_type(fetch.submit("u").result(), bytes)
assert_type(add.submit_many([(1, 2)])[0].result(), int)
assert_type(add.submit(1).status(), yadtq.states.State)

add.submit("x", 2)  # error: arg-type
add.submit()  # error: call-arg
add.submit(1, 2, 3)  # error: call-arg
add.submit(1, c=2)  # error: call-arg
shout.submit("x", True)  # error: call-arg
shout.submit(text=7)  # error: arg-type
fetch.submit(7)  # error: arg-type
app.task(max_attempts="3")  # error: call-overload
add.using(max_attempts="3")  # error: arg-type
add.using(delay_s="3")  # error: arg-type
assert_type(add.using(at=1.5).submit(1).result(), int)
