"""JSON at /api/v1: lists, one task, submit.

One invariant: what a client sends can cause a 4xx and never a 5xx; lists answer 200 also while a store is down, and say
so in `notices`. 503 and 504 come from submitting, replaying and one dead letter only, where the answer would otherwise
be a lie.

Every list answers `{"items": [...], "next_cursor": ..., "notices": [...]}`; next_cursor is null on the last page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BeforeValidator, Field

from yadtq.app import App
from yadtq.errors import (
    InvalidTask,
    NoDeadLetter,
    SettingsError,
    SubmitError,
    SubmitUnknown,
    TooLarge,
    Unavailable,
    UnknownQueue,
    YadtqError,
)
from yadtq.states import State
from yadtq.task import Task
from yadtq.web.body import read_body, read_json
from yadtq.web.listing import TOP, Cursor, Filter, Row
from yadtq.web.order import Order, Submitter, field_kind, type_name
from yadtq.web.view import View

MOST = 200
USUAL = 50
FIELDS = (
    "task_id",
    "task_type",
    "task_args",
    "queue",
    "status",
    "result",
    "error_log",
    "attempts",
    "worker",
    "queued_at_ms",
    "started_at_ms",
    "finished_at_ms",
    "topic",
    "partition",
    "offset",
    "not_before_ms",
    "replay_of",
)
# The first that fits counts. What is not in here is a defect and may be a 500.
STATUSES: tuple[tuple[type[YadtqError], int], ...] = (
    (NoDeadLetter, 404),
    (UnknownQueue, 404),
    (TooLarge, 413),
    (SubmitUnknown, 504),
    (Unavailable, 503),
    (SubmitError, 422),
    (InvalidTask, 422),
    (SettingsError, 422),
)
# `?status=&limit=` says nothing of either, as a form with empty fields does.
_BLANK = BeforeValidator(lambda value: value or None)
Status = Annotated[State | None, _BLANK, Query()]
Text = Annotated[Annotated[str, Field(max_length=1_000)] | None, _BLANK, Query()]
Moment = Annotated[Annotated[int, Field(ge=0, le=2**53)] | None, _BLANK, Query()]
Limit = Annotated[Annotated[int, Field(ge=1, le=MOST)] | None, _BLANK, Query()]
_orders = msgspec.json.Decoder(Order)
JSON_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}


def api_router(app: App, view: View, submitter: Submitter) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/api/v1")
    _add_tasks(router, view, submitter)
    _add_lists(router, app, view)
    return router


def _add_tasks(router: APIRouter, view: View, submitter: Submitter) -> None:
    @router.get("/tasks")
    async def tasks(
        status: Status = None,
        task_type: Text = None,
        queue: Text = None,
        limit: Limit = None,
        cursor: Text = None,
    ) -> Response:
        """Tasks, newest first. `status`, `task_type` and `queue` narrow the list; `cursor` goes on where it ended."""
        page = await view.page(Filter(status, task_type, queue), read_cursor(cursor), limit or USUAL)
        cursor_text = page.next_cursor.write() if page.next_cursor else None
        return answer_list([task_item(row) for row in page.items], view.notices, cursor_text, behind=view.behind)

    @router.post("/tasks", status_code=202, openapi_extra=JSON_BODY)
    async def submit(request: Request) -> Response:
        """Submit a task: `{task_type, task_args, task_kwargs?, queue?, task_id?, key?, max_attempts?, delay_s?}`.

        202: Kafka has it, or the task file where the web app writes to one (`written_to`). 413: too large. 422: unknown
        task type or arguments that do not fit. 503: Kafka does not answer, nothing was published. 504: Kafka gave no
        report in time; submit again with the `task_id` of the answer, it runs once.
        """
        order = read_order(await read_body(request, "application/json"))
        answer: dict[str, Any] = {"task_id": await submitter.submit(order)}
        if submitter.task_file is not None:
            answer["written_to"] = str(submitter.task_file.path)
        return answer_json(answer, 202)

    @router.get("/tasks/{task_id:path}")
    async def task(task_id: str) -> Response:
        """One task. 404: no task has this id, or it lies in the task file and no producer has read it yet."""
        row = await view.task(task_id)
        if row is None:
            raise HTTPException(404, missing(task_id, submitter))
        return answer_json(task_item(row))


def _add_lists(router: APIRouter, app: App, view: View) -> None:
    @router.get("/workers")
    async def workers() -> Response:
        """Every worker, the living first."""
        return answer_list([asdict(worker) for worker in await view.workers()], view.notices)

    @router.get("/queues")
    async def queues() -> Response:
        """Every queue with its partitions and how far its consumers are."""
        return answer_list([asdict(queue) for queue in await view.queues()], view.notices)

    @router.get("/task-types")
    async def task_types() -> Response:
        """The tasks that can be submitted, with their parameters."""
        return answer_list([task_type_item(task) for task in app.registry.tasks], view.notices)


def read_cursor(text: str | None) -> Cursor:
    """Read a cursor of a URL; 422 where it is none."""
    try:
        return Cursor.read(text) if text else TOP
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


def read_order(body: bytes) -> Order:
    """Read the body of a submit; 422 where it is none."""
    return read_json(body, _orders, "the body is not a task to submit")


def missing(task_id: str, submitter: Submitter) -> str:
    """Say why there is no such task."""
    if submitter.task_file is not None and submitter.task_file.holds(task_id):
        return f"written to {submitter.task_file.path}, waiting for the producer"
    return f"no task has the id {task_id!r}: never submitted, or its record has expired"


def status_of(error: YadtqError) -> int:
    """The HTTP status that says what an error means."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def answer_error(error: YadtqError) -> Response:
    """An error as JSON, with the facts that a client can act on."""
    facts = {"task_id": error.task_id} if isinstance(error, SubmitUnknown) else {}
    return answer_json({"detail": str(error), **facts}, status_of(error))


def task_item(row: Row) -> dict[str, Any]:
    """One task as JSON. Arguments and result go out as they came in, unread."""
    item = {name: getattr(row, name) for name in FIELDS}
    for name in ("task_args", "result"):
        item[name] = None if item[name] is None else msgspec.Raw(item[name].encode())
    return item


def task_type_item(task: Task[..., Any]) -> dict[str, Any]:
    return {
        "name": task.name,
        "doc": task.__doc__,
        "queue": task.options.queue,
        "max_attempts": task.options.max_attempts,
        "parameters": [
            {"name": at.name, "type": type_name(at), "required": at.required, "input": field_kind(at)}
            for at in task.parameters
        ],
    }


def answer_list(
    items: Sequence[Mapping[str, object]], notices: Sequence[str], next_cursor: str | None = None, **more: object
) -> Response:
    """A list as JSON."""
    return answer_json({"items": items, "next_cursor": next_cursor, "notices": notices, **more})


def answer_json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
