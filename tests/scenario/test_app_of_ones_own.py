"""An app of one's own: a worker runs its tasks, other processes submit and wait, and no event loop stands still."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import fastapi
import httpx
import pytest
from drama import HERE, Stage

from yadtq import App
from yadtq.dev.services import Services
from yadtq.states import State

pytestmark = pytest.mark.real
T = TypeVar("T")
SUBMIT = """
from stage_app import add
handle = add.submit(20, 22)
print(handle.task_id, handle.result(timeout_s=30))
"""
FRESH_S = 0.5  # the longest that the loop may stand still; a call that blocks would hold it for seconds
TICK_S = 0.01


def test_another_process_submits_and_sigterm_drains(stage: Stage) -> None:
    worker = stage.worker("own", "--partitions", "2", "--runners", "2")
    submitter = stage.enter("submitter", [sys.executable, "-c", SUBMIT], cwd=HERE)
    submitter.leaves(0)
    submitter.says(r"^\w+ 42$")
    stage.submit(("running", "nap", 1.5))
    stage.until_running("running")
    worker.signal(signal.SIGTERM)
    worker.leaves(0)
    worker.says("own has left")
    assert stage.finals(["running"]) == {"running": State.SUCCESS}
    assert sum(stage.committed().values()) == 2
    stage.account().check(duplicated=set())


def test_a_module_that_is_not_there_is_said_in_one_line(stage: Stage) -> None:
    command = [sys.executable, "-m", "yadtq", "worker", "no_such_module:app"]
    worker = stage.enter("worker", command, cwd=HERE, stdin=subprocess.DEVNULL)
    worker.says("there is no module 'no_such_module' in this folder or environment")
    worker.leaves(1)


def test_a_fastapi_app_answers_while_kafka_is_slow_and_dead(fragile_stage: Stage, own_services: Services) -> None:
    stage = fragile_stage
    stage.worker("own", "--runners", "2").says("assigned")
    asyncio.run(play(stage, own_services))


async def play(stage: Stage, services: Services) -> None:
    client = httpx.AsyncClient(transport=httpx.ASGITransport(web_app(stage.app)), base_url="http://app", timeout=60)
    async with client, asyncio.timeout(90):
        gap_s, answer = await ticking(lambda: client.post("/sum/1/2"))
        assert answer.json() == 3
        assert gap_s < FRESH_S

        kafka = services.pids["kafka"]
        os.kill(kafka, signal.SIGSTOP)
        try:
            slow = asyncio.create_task(client.post("/sum/2/3"))
            gap_s, _ = await ticking(lambda: asyncio.wait([slow], timeout=2))
        finally:
            os.kill(kafka, signal.SIGCONT)
        assert not slow.done(), "Kafka was not slow: void"
        assert gap_s < FRESH_S
        gap_s, answer = await ticking(lambda: slow)
        assert answer.json() == 5
        assert gap_s < FRESH_S

        await asyncio.to_thread(services.kill_kafka)
        dead = asyncio.create_task(client.post("/sum/3/4"))
        gap_s, _ = await ticking(lambda: asyncio.wait([dead], timeout=2))
        assert not dead.done()
        assert gap_s < FRESH_S
        gap_s, _ = await ticking(lambda: asyncio.to_thread(services.start_kafka))
        assert gap_s < FRESH_S
        gap_s, answer = await ticking(lambda: dead)
        assert answer.json() == 7
        assert gap_s < FRESH_S


def web_app(app: App) -> fastapi.FastAPI:
    web = fastapi.FastAPI()

    @app.task
    def add(a: int, b: int) -> int:
        raise AssertionError("the worker runs it, not this process")

    @web.post("/sum/{a}/{b}")
    async def post(a: int, b: int) -> int:
        return await (await add.submit_async(a, b))

    return web


async def ticking(play: Callable[[], Awaitable[T]]) -> tuple[float, T]:
    """Await something; return the longest time that the loop stood still meanwhile, and the answer."""
    longest_s = 0.0

    async def tick() -> None:
        nonlocal longest_s
        last = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            longest_s, last = max(longest_s, now - last), now

    ticker = asyncio.create_task(tick())
    try:
        answer = await play()
    finally:
        ticker.cancel()
    return longest_s, answer
