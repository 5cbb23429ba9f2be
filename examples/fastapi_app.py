"""A web service that submits tasks from `async def` without blocking its loop.

yadtq up
yadtq worker examples.hello:app
uvicorn examples.fastapi_app:service
curl -X POST 'http://127.0.0.1:8000/sums?a=1&b=2'
"""

from typing import Any

from examples.hello import add, app
from fastapi import FastAPI, HTTPException

import yadtq

service = FastAPI(title="Sums")


@service.post("/sums", status_code=202)
async def begin(a: int, b: int) -> dict[str, str]:
    """Submit, and answer when Kafka has it."""
    handle = await add.submit_async(a, b)
    return {"task_id": handle.task_id}


@service.get("/sums/{task_id}")
def look(task_id: str) -> dict[str, Any]:
    """Say how it is. A plain `def`: FastAPI gives it a thread, where asking Redis may block."""
    handle = app.handle(task_id)
    try:
        status = handle.status()
        return {"status": status, "sum": handle.result(timeout_s=1) if status is yadtq.State.SUCCESS else None}
    except yadtq.NotFound as error:
        raise HTTPException(404, str(error)) from error


@service.get("/sums/{task_id}/wait")
async def wait(task_id: str) -> dict[str, Any]:
    """Wait for the end. Awaiting a handle holds no thread."""
    try:
        return {"sum": await app.handle(task_id)}
    except yadtq.NotFound as error:
        raise HTTPException(404, str(error)) from error
    except yadtq.TaskFailed as error:
        raise HTTPException(500, str(error)) from error
