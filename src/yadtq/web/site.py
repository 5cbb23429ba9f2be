"""The web app put together: one read model, its indexer, the routes, and the guard around all of it.

One invariant: what the lifespan starts, it stops. When the process dies, the read model's file is whole.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from yadtq.app import App
from yadtq.errors import YadtqError
from yadtq.web.api import answer_error, api_router, status_of
from yadtq.web.changes import Changes
from yadtq.web.dead import DeadDesk, dead_router
from yadtq.web.deadpages import DeadPages, dead_page_router
from yadtq.web.guard import Guard
from yadtq.web.indexer import Indexer
from yadtq.web.listing import Listing
from yadtq.web.order import Submitter
from yadtq.web.pages import Pages, page_router
from yadtq.web.readmodel import ReadModel
from yadtq.web.stream import Live, stream_router
from yadtq.web.taskfile import TaskFile
from yadtq.web.view import View

STATIC = Path(__file__).with_name("static")
GROUP = "workers"
STOP_S = 1.0  # a thread that waits for a dead Kafka is left behind; it is a daemon


def create_app(app: App, *, readmodel_path: Path, task_file: Path | None = None, group: str = GROUP) -> FastAPI:
    """Make the ASGI app.

    Args:
        app: Its registry says which tasks can be submitted, its settings where Kafka and Redis are.
        readmodel_path: The SQLite file; made where it is missing.
        task_file: Where submitted tasks are written as lines, instead of being published.
        group: The workers' consumer group; lag is what it has not finished.
    """
    changes = Changes()
    model = ReadModel(readmodel_path)
    listing = Listing(model)
    indexer = Indexer(app.broker, app.layout, model, changes.tell)
    view = View(app, listing, indexer, changes, group)
    live = Live(view, changes)
    submitter = Submitter(app, TaskFile(task_file) if task_file else None)
    pages = Pages(app, view, submitter)
    desk = DeadDesk(app)

    # The documentation pages that come with FastAPI load scripts from other hosts; /openapi.json stays.
    site = FastAPI(
        title="YADTQ", docs_url=None, redoc_url=None, lifespan=_lifespan(changes, indexer, live, desk, model)
    )
    apis = (api_router(app, view, submitter), dead_router(desk, view), stream_router(live))
    for router in (*apis, page_router(pages), dead_page_router(DeadPages(pages, desk))):
        site.include_router(router)
    site.mount("/static", StaticFiles(directory=STATIC))
    site.add_middleware(Guard)
    site.state.live = live
    _answer_errors(site, pages)
    return site


def _lifespan(changes: Changes, indexer: Indexer, live: Live, desk: DeadDesk, model: ReadModel) -> Lifespan[FastAPI]:
    """From the first request to the last."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        changes.open()
        indexer.start()
        looking = asyncio.create_task(live.run())
        yield
        live.close()
        indexer.stop()
        looking.cancel()
        await asyncio.wait([looking])
        await asyncio.to_thread(indexer.join, STOP_S)
        await asyncio.to_thread(desk.close, STOP_S)
        if not indexer.alive:
            model.close()

    return running


def _answer_errors(site: FastAPI, pages: Pages) -> None:
    """An error is JSON under /api and a page elsewhere."""

    def answer(request: Request, status: int, detail: str) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"detail": detail}, status)
        return pages.show("error.html", status, code=status, detail=detail)

    @site.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return answer(request, error.status_code, str(error.detail))

    @site.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # What was sent is not repeated: it may hold characters that no answer can carry.
        problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        return answer(request, 422, "; ".join(problems).encode("utf-8", "replace").decode())

    @site.exception_handler(YadtqError)
    async def known(request: Request, error: YadtqError) -> Response:
        if request.url.path.startswith("/api/"):
            return answer_error(error)
        return answer(request, status_of(error), str(error))
