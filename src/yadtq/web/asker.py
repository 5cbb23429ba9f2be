"""Questions to a store from the event loop: never for long, and never twice a moment to one that is down.

One invariant: the loop is never blocked, and a page never waits longer for a store than it was told to.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from yadtq.errors import Unavailable

T = TypeVar("T")
PATIENCE_S = 1.5
REST_S = 1.0  # a store that did not answer is left alone for so long
FORGET_S = 3.0  # nobody has asked it again for so long: it may be well
MOST = 8  # questions under way; each holds a thread until the client gives up by itself


class Asker:
    """Asks one store."""

    def __init__(self, store: str, patience_s: float = PATIENCE_S) -> None:
        self._store = store
        self._patience_s = patience_s
        self._problem = ""
        self._rest_until = 0.0
        self._forget_at = 0.0
        self._under_way = 0
        self.turns = 0  # how often it turned from well to ill and back, as `problem` says it

    @property
    def problem(self) -> str:
        """Why questions have no answer now, or an empty string."""
        return self._problem if time.monotonic() < self._forget_at else ""

    async def ask(self, question: Callable[[], T]) -> T:
        """Return the answer.

        Raises:
            Unavailable: There was none in time.
        """
        if time.monotonic() < self._rest_until:
            self._forget_at = time.monotonic() + FORGET_S
            raise Unavailable(self._problem)
        if self._under_way >= MOST:
            raise Unavailable(f"{self._store} is slow: {MOST} questions wait for its answer")
        try:
            async with asyncio.timeout(self._patience_s):
                answer = await self._off_loop(question)
        except (Unavailable, TimeoutError) as error:
            self.turns += not self.problem
            self._problem = f"{self._store} does not answer"
            self._rest_until = time.monotonic() + REST_S
            self._forget_at = time.monotonic() + FORGET_S
            raise Unavailable(self._problem) from error
        self.turns += bool(self._problem)
        self._problem = ""
        return answer

    async def _off_loop(self, question: Callable[[], T]) -> T:
        """A thread of its own, and a daemon: a pool's threads would hold up the end of the process."""
        future: Future[T] = Future()
        self._under_way += 1

        def answer() -> None:
            try:
                future.set_result(question())
            except BaseException as error:  # handed to whoever awaits
                future.set_exception(error)
            finally:
                self._under_way -= 1

        threading.Thread(target=answer, name=f"yadtq-ask-{self._store}", daemon=True).start()
        return await asyncio.shield(asyncio.wrap_future(future))
