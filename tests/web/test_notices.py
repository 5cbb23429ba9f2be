"""What pages say of a store that does not answer, and how a page that says it wrongly is made again."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from yadtq.errors import LedgerUnavailable, Unavailable
from yadtq.web import asker
from yadtq.web.asker import FORGET_S, REST_S, Asker
from yadtq.web.changes import Changes
from yadtq.web.stream import Live


def run(coroutine: Coroutine[Any, Any, object]) -> None:
    """On a thread of its own: the browser of other tests keeps a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, coroutine).result()


class Store:
    """A store that answers when the test says so, and a clock."""

    def __init__(self) -> None:
        self.down = False
        self.now = 100.0

    def question(self) -> str:
        if self.down:
            raise LedgerUnavailable("no")
        return "answer"

    def ask(self, asker: Asker) -> None:
        try:
            run(asker.ask(self.question))
        except Unavailable:
            assert asker.problem == "Redis does not answer"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()

    class Time:
        monotonic: Callable[[], float] = staticmethod(lambda: store.now)

    monkeypatch.setattr(asker, "time", Time)
    return store


class Shown:
    """What a page shows, as far as the stream looks at it."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def overview(self) -> tuple[dict[str, int], list[object]]:
        return {}, []

    async def workers_seen(self) -> list[object]:
        return []

    @property
    def notices(self) -> list[str]:
        return [self._asker.problem] if self._asker.problem else []

    @property
    def troubles(self) -> int:
        return self._asker.turns


def told(live: Live) -> int:
    """How often `notices` were told, after one more look."""
    run(live._tell())
    return live._number.get("notices", 0)


def test_a_page_that_saw_a_problem_between_two_looks_is_made_again(store: Store) -> None:
    asked = Asker("Redis")
    live = Live(Shown(asked), Changes())  # type: ignore[arg-type]
    store.ask(asked)
    before = told(live)
    assert told(live) == before, "nothing changed"
    store.down = True
    store.ask(asked)  # by a page, which now says so
    store.down = False
    store.now += REST_S
    store.ask(asked)  # by the next look, which sees nothing wrong, as the last one
    assert told(live) == before + 1


def test_a_page_that_took_so_long_that_the_problem_was_forgotten_is_made_again(store: Store) -> None:
    asked = Asker("Redis")
    live = Live(Shown(asked), Changes())  # type: ignore[arg-type]
    store.down = True
    store.ask(asked)
    before = told(live)
    store.now += FORGET_S + 0.1
    assert asked.problem == "", "so a page that is made now says nothing"
    store.ask(asked)
    assert told(live) == before + 1


def test_who_asks_while_a_store_rests_is_reason_not_to_forget(store: Store) -> None:
    asked = Asker("Redis")
    store.down = True
    store.ask(asked)
    store.now += REST_S - 0.1
    store.ask(asked)
    store.now += FORGET_S - 0.1
    assert asked.problem == "Redis does not answer"
