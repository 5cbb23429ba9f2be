"""Dead letters in the web app: read from Kafka when somebody asks, and replayed.

One invariant: what a client sends can name only tasks that are registered here, as in a submit; a dead letter of
another app's task is replayed as it was.
"""

import asyncio
import re
from collections.abc import Mapping
from functools import cached_property

import msgspec
from fastapi import APIRouter, HTTPException, Request, Response

from yadtq.app import App
from yadtq.deadletters import DeadLetters, Letter, Page, Wanted, letter_item, opened_item
from yadtq.errors import Unavailable
from yadtq.replay import Edit, Replayed, Replayer, Summary, edit_of
from yadtq.web.api import JSON_BODY, USUAL, Limit, Moment, Text, answer_json, answer_list
from yadtq.web.asker import Asker
from yadtq.web.body import read_body, read_json
from yadtq.web.order import UnknownTask
from yadtq.web.view import View

PATIENCE_S = 15.0  # a dead-letter topic may be long, and nobody but whoever asks waits for it
MOST_LOOKED = 10_000  # letters that one page looks at, however few of them fit
MOST_REPLAYED = 1_000  # in one request; the answer says that there are more
UNCLEAR = "the body does not say what to replay"
_CURSOR = re.compile(r"\d{1,9}-\d{1,18}(\.\d{1,9}-\d{1,18}){0,999}")


class ReplayBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a replay of one. What is left out is as it was."""

    task_type: str | None = None
    task_args: msgspec.Raw = msgspec.Raw()
    task_kwargs: msgspec.Raw = msgspec.Raw()
    raw: bool = False
    again: bool = False


class ReplayAllBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a replay of many: which."""

    reason: str | None = None
    task_type: str | None = None
    task_id: str | None = None
    since_ms: int | None = None
    again: bool = False


class DeadDesk:
    """Answers what is asked of dead letters, off the event loop."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._letters = DeadLetters(app.broker, app.layout)
        self._asker = Asker("Kafka", PATIENCE_S)

    @cached_property
    def _replayer(self) -> Replayer:
        return Replayer(self._app.broker, self._app.ledger, self._app.layout)

    async def page(self, queue: str, wanted: Wanted, most: int, before: Mapping[int, int] | None) -> Page:
        """Return a page; raises what `DeadLetters.page` raises, and Unavailable."""
        return await self._asker.ask(
            lambda: self._letters.page(queue, wanted, most, before=before, most_looked=MOST_LOOKED)
        )

    async def find(self, queue: str, letter_id: str) -> Letter:
        """Return one letter; raises what `DeadLetters.find` raises, and Unavailable."""
        return await self._asker.ask(lambda: self._letters.find(queue, letter_id))

    async def replay(self, letter: Letter, edit: Edit, *, again: bool, raw: bool) -> Replayed:
        """Replay one; raises what `Replayer.replay` raises, UnknownTask and InvalidArguments."""
        self._check(letter, edit)
        return await asyncio.to_thread(self._replayer.replay, letter, edit, again=again, raw=raw)

    async def replay_all(self, queue: str, wanted: Wanted, *, again: bool) -> Summary:
        """Replay many; raises what `Replayer.replay_all` raises."""
        return await asyncio.to_thread(self._replayer.replay_all, queue, wanted, again=again, most=MOST_REPLAYED)

    def _check(self, letter: Letter, edit: Edit) -> None:
        """What somebody enters is checked as in a submit; what was there is left to the workers."""
        if edit == Edit():
            return
        name = edit.task_type or letter.task_type
        task = self._app.registry.get(name)
        if task is None and edit.task_type not in (None, letter.task_type):
            raise UnknownTask(name, self._app.registry.names)
        if task is not None:
            was = letter.envelope
            args = edit.args or (bytes(was.task_args) if was else b"[]")
            task.unpack(args, edit.kwargs or (bytes(was.task_kwargs) if was else b"{}"))

    def close(self, timeout_s: float) -> None:
        if "_replayer" in self.__dict__:
            self._replayer.close(timeout_s)


def dead_router(desk: DeadDesk, view: View) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/api/v1/queues/{queue}/dead")
    _add_reading(router, desk, view)
    _add_replaying(router, desk)
    return router


def _add_reading(router: APIRouter, desk: DeadDesk, view: View) -> None:
    @router.get("")
    async def dead(
        queue: str,
        reason: Text = None,
        task_type: Text = None,
        task_id: Text = None,
        since_ms: Moment = None,
        limit: Limit = None,
        cursor: Text = None,
    ) -> Response:
        """Dead letters, newest first. A page looks at 10,000 at most; `next_cursor` goes on behind an empty one too."""
        wanted = Wanted(reason, task_type, since_ms, task_id)
        try:
            page = await desk.page(queue, wanted, limit or USUAL, read_before(cursor))
        except Unavailable as error:
            return answer_list([], [f"{error}. No dead letters can be shown.", *view.notices])
        items = [letter_item(letter) for letter in page.letters]
        return answer_list(items, view.notices, write_before(page.before))

    @router.get("/{partition}/{offset}")
    async def dead_letter(queue: str, partition: int, offset: int) -> Response:
        """One dead letter with its bytes. 503: Kafka does not answer."""
        return answer_json(opened_item(await desk.find(queue, f"{partition}/{offset}")))


def _add_replaying(router: APIRouter, desk: DeadDesk) -> None:
    @router.post("/{partition}/{offset}/replay", status_code=202, openapi_extra=JSON_BODY)
    async def replay(request: Request, queue: str, partition: int, offset: int) -> Response:
        """Replay one as a new task: `{task_type?, task_args?, task_kwargs?, raw?, again?}`; `{}` as it was.

        202: Kafka has it; `before` says that this very replay was made before, and nothing was published. 422: it
        cannot run so. 503, 504: as in a submit; the same replay once more is the same task.
        """
        body = read_json(await read_body(request, "application/json"), _replay_bodies, UNCLEAR)
        edit = edit_of(body.task_type, bytes(body.task_args) or None, bytes(body.task_kwargs) or None)
        letter = await desk.find(queue, f"{partition}/{offset}")
        done = await desk.replay(letter, edit, again=body.again, raw=body.raw)
        return answer_json({"task_id": done.task_id, "before": done.before}, 202)

    @router.post("/replay", status_code=202, openapi_extra=JSON_BODY)
    async def replay_all(request: Request, queue: str) -> Response:
        """Replay many as they were: `{reason?, task_type?, task_id?, since_ms?, again?}`; `{}` all of them.

        At most 1,000 a request; `more` says that the rest waits for the same request once more.
        """
        body = read_json(await read_body(request, "application/json"), _replay_all_bodies, UNCLEAR)
        wanted = Wanted(body.reason, body.task_type, body.since_ms, body.task_id)
        summary = await desk.replay_all(queue, wanted, again=body.again)
        refused = [{"id": letter_id, "detail": why} for letter_id, why in summary.refused]
        facts = {"replayed": summary.replayed, "before": summary.before, "more": summary.more}
        return answer_json({**facts, "refused": refused}, 202)


def read_before(text: str | None) -> dict[int, int] | None:
    """Read a cursor of a URL; 422 where it is none."""
    if not text:
        return None
    if not _CURSOR.fullmatch(text):
        raise HTTPException(422, "cursor is not one that this list gave out; leave it away to start anew")
    return {int(partition): int(offset) for partition, offset in (at.split("-") for at in text.split("."))}


def write_before(before: Mapping[int, int] | None) -> str | None:
    return None if before is None else ".".join(f"{partition}-{offset}" for partition, offset in before.items())


_replay_bodies = msgspec.json.Decoder(ReplayBody)
_replay_all_bodies = msgspec.json.Decoder(ReplayAllBody)
