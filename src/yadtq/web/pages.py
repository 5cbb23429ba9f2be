"""The pages: tasks, one task, workers, queues. Rendered here in full, so that they can be read without scripts.

One invariant: a page is its URL. A script fetches the same URL again and puts the new parts in place; a form posts and
is answered by a page. So there is one way to show anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from yadtq.app import App
from yadtq.errors import YadtqError
from yadtq.layout import DEAD
from yadtq.states import State
from yadtq.web.api import Status, Text, missing, read_cursor, status_of
from yadtq.web.body import read_fields
from yadtq.web.listing import Filter, Row
from yadtq.web.order import Submitter, UnknownTask, field_kind, read_form, type_name
from yadtq.web.render import environment
from yadtq.web.view import LEFT_S, View

ROWS = 50


@dataclass(frozen=True, slots=True)
class TasksQuery:
    """The query of the tasks page."""

    filter: Filter
    cursor: str | None = None
    form: str | None = None  # the task type whose form is shown
    submitted: str | None = None  # the task that the form has just submitted

    def url(self, **changes: str | None) -> str:
        """The URL of this list with other values; None leaves one out."""
        wanted = self.filter
        values = {"status": wanted.status, "task_type": wanted.task_type, "queue": wanted.queue, "form": self.form}
        query = urlencode({name: value for name, value in (values | changes).items() if value})
        return f"/?{query}" if query else "/"

    @property
    def narrowed(self) -> bool:
        return self.filter != Filter()


def tasks_query(
    status: Status = None,
    task_type: Text = None,
    queue: Text = None,
    cursor: Text = None,
    form: Text = None,
    submitted: Text = None,
) -> TasksQuery:
    """Read the query."""
    return TasksQuery(Filter(status, task_type, queue), cursor, form, submitted)


class Pages:
    """What all pages have: the templates, and the facts of the frame around them."""

    def __init__(self, app: App, view: View, submitter: Submitter) -> None:
        self._app = app
        self._view = view
        self._submitter = submitter
        self._templates = environment()

    def show(self, template: str, status: int = 200, **facts: object) -> HTMLResponse:
        frame = {"notices": self._view.notices, "behind": self._view.behind, "states": list(State)}
        return HTMLResponse(self._templates.get_template(template).render(frame | facts), status)

    async def tasks(
        self, query: TasksQuery, *, error: str = "", entered: Mapping[str, str] | None = None, status: int = 200
    ) -> HTMLResponse:
        page = await self._view.page(query.filter, read_cursor(query.cursor), ROWS)
        totals, _ = await self._view.overview()
        counts = await self._view.counts()
        return self.show(
            "tasks.html",
            status,
            rows=page.items,
            totals=totals,
            query=query,
            older=query.url(cursor=page.next_cursor.write()) if page.next_cursor else None,
            task_types=sorted({count.task_type for count in counts} | set(self._app.registry.names)),
            queues=sorted({count.queue for count in counts}),
            form=self._form(query, error, entered or {}),
        )

    def _form(self, query: TasksQuery, error: str, entered: Mapping[str, str]) -> dict[str, Any]:
        names = self._app.registry.names
        task = self._app.registry.get(query.form or (names[0] if names else ""))
        fields = [
            {"parameter": at, "kind": field_kind(at), "type": type_name(at), "value": entered.get(f"arg.{at.name}", "")}
            for at in (task.parameters if task else [])
        ]
        return {
            "names": names,
            "task": task,
            "fields": fields,
            "error": error,
            "submitted": query.submitted,
            "task_file": self._submitter.task_file and self._submitter.task_file.path,
            "entered": entered,
        }

    async def submit(self, query: TasksQuery, form: Mapping[str, str]) -> Response:
        """Answer a form: on to the list, or the form again with what was entered and what is wrong with it."""
        name = form.get("task_type", "")
        query = replace(query, form=name[:1_000], submitted=None)
        try:
            task = self._app.registry.get(name)
            if task is None:
                raise UnknownTask(name, self._app.registry.names)
            task_id = await self._submitter.submit(read_form(task, form))
        except YadtqError as error:
            return await self.tasks(query, error=str(error), entered=form, status=status_of(error))
        return RedirectResponse(query.url(submitted=task_id), 303)

    async def task(self, task_id: str) -> HTMLResponse:
        row = await self._view.task(task_id)
        if row is not None:
            replays = await self._view.replays(task_id)
            return self.show("task.html", row=row, task_id=task_id, replays=replays, origin=self._origin(row))
        waits = self._submitter.task_file is not None and self._submitter.task_file.holds(task_id)
        return self.show(
            "missing.html", 200 if waits else 404, task_id=task_id, waits=waits, why=missing(task_id, self._submitter)
        )

    def _origin(self, row: Row) -> str | None:
        """Where the task is shown that this one replays, or the dead letter that was no task."""
        letters = f"{self._app.layout.prefix}{row.queue}{DEAD}/"
        if row.replay_of and row.replay_of.startswith(letters):
            return f"/queues/{quote(row.queue)}/dead/{quote(row.replay_of.removeprefix(letters))}"
        return f"/tasks/{quote(row.replay_of, safe='')}" if row.replay_of else None

    async def workers(self) -> HTMLResponse:
        return self.show("workers.html", workers=await self._view.workers(), left_minutes=int(LEFT_S // 60))

    async def queues(self) -> HTMLResponse:
        return self.show("queues.html", queues=await self._view.queues())


def page_router(pages: Pages) -> APIRouter:
    """Make the routes."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @router.get("/")
    async def tasks(query: Annotated[TasksQuery, Depends(tasks_query)]) -> Response:
        return await pages.tasks(query)

    @router.post("/")
    async def submit(request: Request, query: Annotated[TasksQuery, Depends(tasks_query)]) -> Response:
        return await pages.submit(query, await read_fields(request))

    @router.get("/tasks/{task_id:path}")
    async def task(task_id: str) -> Response:
        return await pages.task(task_id)

    @router.get("/workers")
    async def workers() -> Response:
        return await pages.workers()

    @router.get("/queues")
    async def queues() -> Response:
        return await pages.queues()

    return router
