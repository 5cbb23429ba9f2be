"""What a crew's thread waits for: the streams of its children, and a bell.

One invariant: a stream is watched for writing only while something waits to be sent, so a wait without news lasts.
"""

import selectors

from yadtq.runners.bell import Bell
from yadtq.runners.process import RunnerProcess


class Watch:
    """A selector over children. All but `ring` belongs to one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._bell = Bell()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._events: dict[RunnerProcess, int] = {}
        self.ring = self._bell.ring  # any thread, also after `close`

    def wait(self, timeout_s: float | None) -> list[RunnerProcess]:
        """Return the children that have said something, be it that their stream has ended."""
        heard = []
        for key, events in self._selector.select(timeout_s):
            if key.data is None:
                self._bell.answer()
            elif events & selectors.EVENT_READ:
                heard.append(key.data)
        return heard

    def follow(self, child: RunnerProcess) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.blocked else 0)
        before = self._events.get(child, 0)
        if child.gone or events == before:
            return
        if before:
            self._selector.modify(child.socket, events, child)
        else:
            self._selector.register(child.socket, events, child)
        self._events[child] = events

    def forget(self, child: RunnerProcess) -> None:
        if self._events.pop(child, 0):
            self._selector.unregister(child.socket)

    def close(self) -> None:
        self._selector.close()
        self._bell.close()
