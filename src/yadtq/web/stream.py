"""One stream of server-sent events: word that something changed. Pages fetch themselves again when they hear it.

One invariant: however many listen, the stores are asked once, and at most every `PACE_S`; with nobody listening they
are not asked at all. Streams end by themselves when the server does.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from yadtq.web.changes import Changes
from yadtq.web.view import View

PACE_S = 0.25  # between two events
LOOK_S = 1.0  # between two looks at what changes without the read model: claims, heartbeats, commits
BEAT_S = 15.0  # between two comments that keep the connection open
SETTLING_S = 10.0  # commits follow the outcomes by a moment: queues are told for so long after the last one
MOST_STREAMS = 100


class Live:
    """Looks at what is shown while anybody listens, and tells all of them what changed."""

    def __init__(self, view: View, changes: Changes) -> None:
        self._view = view
        self._changes = changes
        self._listeners: set[asyncio.Event] = set()
        self._told: dict[str, Any] = {}
        self._number: dict[str, int] = {}
        self._moved_at = 0.0

    async def run(self) -> None:
        """Look and tell until the server ends."""
        seen = self._changes.number
        while not self._changes.closing:
            if self._listeners:
                await self._tell()
            seen = await self._changes.wait(seen, LOOK_S)
            await asyncio.sleep(PACE_S)

    async def _tell(self) -> None:
        found = await self._look()
        changed = [name for name, value in found.items() if self._told.get(name) != value]
        self._told = found
        for name in changed:
            self._number[name] = self._number.get(name, 0) + 1
        if changed:
            self._wake()

    async def _look(self) -> dict[str, Any]:
        totals, running = await self._view.overview()
        tasks = (self._changes.number, totals, [(row.task_id, row.attempts) for row in running])
        if tasks != self._told.get("tasks"):
            self._moved_at = time.monotonic()
        settling = time.monotonic() - self._moved_at < SETTLING_S
        return {
            "tasks": tasks,
            "workers": await self._view.workers_seen(),
            "queues": int(time.monotonic()) if settling else 0,
            # A page that was made between two looks may say what neither of them saw: it has to be made again.
            "notices": (self._view.notices, self._view.troubles),
        }

    def _wake(self) -> None:
        for event in self._listeners:
            event.set()

    async def events(self) -> AsyncIterator[str]:
        """Give one listener its events."""
        event = asyncio.Event()
        self._listeners.add(event)
        self._changes.nudge()  # so that the first look does not wait
        seen: dict[str, int] = {}
        try:
            yield "retry: 1000\n\n"
            while not self._changes.closing:
                # The first event comes at once, so that a page that lost the stream for a while catches up.
                changed = sorted(name for name, number in self._number.items() if seen.get(name) != number)
                seen = dict(self._number)
                yield f"event: changed\ndata: {json.dumps(changed)}\n\n"
                async for comment in self._rest(event):
                    yield comment
        finally:
            self._listeners.discard(event)

    async def _rest(self, event: asyncio.Event) -> AsyncIterator[str]:
        """Wait for the next event; keep the connection open meanwhile."""
        while not self._changes.closing:
            try:
                async with asyncio.timeout(BEAT_S):
                    await event.wait()
                event.clear()
                return
            except TimeoutError:
                yield ": still here\n\n"

    def close(self) -> None:
        """End all streams, so that the server can end."""
        self._changes.close()
        self._wake()

    @property
    def full(self) -> bool:
        return len(self._listeners) >= MOST_STREAMS


def stream_router(live: Live) -> APIRouter:
    """Make the route."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/events")
    async def events() -> Response:
        """Server-sent events: `changed` with a JSON list of what did: tasks, workers, queues, notices."""
        if live.full:
            return Response("too many streams are open", 429, media_type="text/plain")
        return StreamingResponse(live.events(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    return router
