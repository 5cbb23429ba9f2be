"""The pages of the dead letters: a queue's, one of them with its bytes, and the forms that replay them.

One invariant: as on every page, what lies in Kafka is shown as text, whatever it is; a form posts to the URL of its
page, and leads back to it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from yadtq.deadletters import HEX_BYTES, Letter, Wanted, shown_bytes
from yadtq.errors import SettingsError, Unavailable, UnknownQueue, YadtqError
from yadtq.replay import Edit, edit_of
from yadtq.visible import visible
from yadtq.web.api import Text, status_of
from yadtq.web.body import read_fields
from yadtq.web.dead import DeadDesk, read_before, write_before
from yadtq.web.pages import ROWS, Pages

TEXT_CHARS = 100_000
FIELDS = ("task_type", "task_args", "task_kwargs")


@dataclass(frozen=True, slots=True)
class DeadQuery:
    """The query of a list of dead letters."""

    wanted: Wanted
    cursor: str | None
    done: str | None  # what the replay of all has just done

    def url(self, queue: str, **changes: str | None) -> str:
        """The URL of this list with other values; None leaves one out."""
        values = {"reason": self.wanted.reason, "task_type": self.wanted.task_type, "task_id": self.wanted.task_id}
        query = urlencode({name: value for name, value in (values | changes).items() if value})
        return f"/queues/{queue}/dead{'?' if query else ''}{query}"

    @property
    def summary(self) -> str:
        """What the replay of all has just done, in words; empty where the query tells of none."""
        found = re.fullmatch(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})(\.more)?", self.done or "")
        if found is None:
            return ""
        replayed, before, refused, more = found.groups()
        rest = ". There are more: replay once more" if more else ""
        return f"{replayed} replayed, {before} had been before, {refused} cannot be as they are{rest}"

    @property
    def narrowed(self) -> bool:
        return self.wanted != Wanted()


def dead_query(
    reason: Text = None, task_type: Text = None, task_id: Text = None, cursor: Text = None, done: Text = None
) -> DeadQuery:
    """Read the query."""
    return DeadQuery(Wanted(reason, task_type, None, task_id), cursor, done)


class DeadPages:
    """Renders what the desk answers."""

    def __init__(self, pages: Pages, desk: DeadDesk) -> None:
        self._pages = pages
        self._desk = desk

    async def queue(self, queue: str, query: DeadQuery, *, error: str = "", status: int = 200) -> HTMLResponse:
        letters: list[Letter] = []
        older = None
        try:
            page = await self._desk.page(queue, query.wanted, ROWS, read_before(query.cursor))
            letters, older = page.letters, write_before(page.before)
        except Unavailable as problem:
            error = error or f"{problem}. No dead letters can be shown."
        return self._pages.show(
            "dead.html",
            status,
            queue=queue,
            query=query,
            letters=letters,
            older=query.url(queue, cursor=older) if older else None,
            error=error,
        )

    async def replay_all(self, queue: str, query: DeadQuery) -> Response:
        try:
            summary = await self._desk.replay_all(queue, query.wanted, again=False)
        except (UnknownQueue, SettingsError):
            raise
        except YadtqError as error:
            return await self.queue(queue, query, error=str(error), status=status_of(error))
        done = f"{summary.replayed}.{summary.before}.{len(summary.refused)}{'.more' if summary.more else ''}"
        return RedirectResponse(query.url(queue, done=done), 303)

    async def letter(self, queue: str, letter_id: str, replayed: str | None, *, before: bool) -> HTMLResponse:
        letter = await self._desk.find(queue, letter_id)
        return self._show(letter, _fields(letter), replayed=replayed, before=before)

    def _show(
        self,
        letter: Letter,
        fields: Mapping[str, str],
        *,
        replayed: str | None = None,
        before: bool = False,
        error: str = "",
        status: int = 200,
    ) -> HTMLResponse:
        text, pairs = shown_bytes(letter.data)
        return self._pages.show(
            "letter.html",
            status,
            letter=letter,
            text=None if text is None else text[:TEXT_CHARS],
            cut=text is not None and len(text) > TEXT_CHARS,
            hex=pairs,
            hex_bytes=min(HEX_BYTES, letter.size_bytes),
            fields=fields,
            replayed=replayed,
            before=before,
            error=error,
        )

    async def replay(self, queue: str, letter_id: str, form: Mapping[str, str]) -> Response:
        """Answer the form of a letter: back to it, or the form again with what is wrong."""
        letter = await self._desk.find(queue, letter_id)
        fields = {name: form.get(name, "") for name in FIELDS}
        try:
            edit = _edit(fields, _fields(letter))
            done = await self._desk.replay(letter, edit, again="again" in form, raw="raw" in form)
        except YadtqError as error:
            return self._show(letter, fields, error=str(error), status=status_of(error))
        query = {"replayed": done.task_id} | ({"before": "1"} if done.before else {})
        return RedirectResponse(f"/queues/{queue}/dead/{letter_id}?{urlencode(query)}", 303)


def _fields(letter: Letter) -> dict[str, str]:
    """What the form of a letter begins with."""
    envelope = letter.envelope
    if envelope is None:
        return dict.fromkeys(FIELDS, "")
    texts = [bytes(raw).decode("utf-8", "replace") for raw in (envelope.task_args, envelope.task_kwargs)]
    return dict(zip(FIELDS, [envelope.task_type, *texts], strict=True))


def _edit(entered: Mapping[str, str], was: Mapping[str, str]) -> Edit:
    """What somebody changed. A browser gives back what it showed, where nobody did."""
    changed = {
        name: None if text.strip() in ("", was[name].strip(), visible(was[name]).strip()) else text
        for name, text in entered.items()
    }
    return edit_of(changed["task_type"], changed["task_args"], changed["task_kwargs"])


def dead_page_router(pages: DeadPages) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/queues/{queue}/dead", include_in_schema=False, default_response_class=HTMLResponse)

    @router.get("")
    async def queue_(queue: str, query: Annotated[DeadQuery, Depends(dead_query)]) -> Response:
        return await pages.queue(queue, query)

    @router.post("")
    async def replay_all(queue: str, query: Annotated[DeadQuery, Depends(dead_query)]) -> Response:
        return await pages.replay_all(queue, query)

    @router.get("/{partition}/{offset}")
    async def letter(queue: str, partition: int, offset: int, replayed: Text = None, before: Text = None) -> Response:
        return await pages.letter(queue, f"{partition}/{offset}", replayed, before=before is not None)

    @router.post("/{partition}/{offset}")
    async def replay(request: Request, queue: str, partition: int, offset: int) -> Response:
        return await pages.replay(queue, f"{partition}/{offset}", await read_fields(request))

    return router
