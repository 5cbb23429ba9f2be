"""Work of many threads at the same time, done as one (group commit).

One invariant: while one group is on the road the next one gathers, and nothing waits for a group to fill. So who comes
alone goes at once and in its own thread, and the more come at the same time the less each of them costs.

What a group needs in turn is on the road, one group at a time; what follows is done beside the next group's turn.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Item(Protocol):
    """What somebody wants done."""

    def wait(self) -> None:
        """Wait until `over` is called."""

    def over(self) -> None:
        """It is done with, or its work has failed; perhaps called again when the work of others of its group fails."""


T = TypeVar("T", bound=Item)
U = TypeVar("U")


class Together(Generic[T, U]):
    """Groups of items. The first of a group leads it: its thread does the work for all of them.

    Args:
        turn: What a group does on the road.
        rest: What it does with that afterwards; calls `over` of each item, here or later on another thread.
    """

    def __init__(self, turn: Callable[[list[T]], U], rest: Callable[[U], None]) -> None:
        self._turn = turn
        self._rest = rest
        self._gathering: list[T] | None = None
        self._guard = threading.Lock()
        self._road = threading.Lock()
        self._company = False  # the last group had more than one member

    def do(self, item: T) -> None:
        """Return when the work of this item is over. Raises what the work raised, where this thread led."""
        group, leads = self._join(item)
        if leads:
            self._lead(group)
        item.wait()

    def start(self, item: T) -> None:
        """Have it done and return at once."""
        group, leads = self._join(item)
        if leads:
            threading.Thread(target=self._lead, args=(group,), name="yadtq-together", daemon=True).start()

    def _join(self, item: T) -> tuple[list[T], bool]:
        with self._guard:
            leads = self._gathering is None
            if self._gathering is None:
                self._gathering = []
            self._gathering.append(item)
            return self._gathering, leads

    def _lead(self, group: list[T]) -> None:
        try:
            with self._road:
                self._let_join(group)
                self._close(group)
                found = self._turn(group)
            self._rest(found)
        except BaseException:
            self._close(group)  # it may have been interrupted on the way to the road
            for item in group:
                item.over()
            raise

    def _let_join(self, group: list[T]) -> None:
        """Give way to threads that are about to join: the last group's, which have just been woken."""
        count = 0 if self._company else len(group)
        while count < len(group):
            count = len(group)
            time.sleep(0)  # hands on the interpreter's lock, for about 60 us
        self._company = len(group) > 1

    def _close(self, group: list[T]) -> None:
        """Nobody joins this group any more."""
        with self._guard:
            if self._gathering is group:
                self._gathering = None
