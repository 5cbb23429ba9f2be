"""Word from the indexing thread to the event loop that something changed.

One invariant: `tell` never blocks and may come from any thread, also after the loop has ended.
"""

import asyncio


class Changes:
    """A number that grows with every change, and a way to wait for it."""

    def __init__(self) -> None:
        self.number = 0
        self.closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()

    def open(self) -> None:
        """Take the running loop for the one that waits."""
        self._loop = asyncio.get_running_loop()

    def tell(self) -> None:
        """Say that something changed."""
        self.number += 1
        if self._loop is None or self._loop.is_closed():
            return
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            # The loop closed between the two lines: then nobody waits any more.
            self._loop = None

    def nudge(self) -> None:
        """Wake whoever waits though nothing changed; from the loop only."""
        self._wake()

    def close(self) -> None:
        """Wake everybody for the last time; streams end."""
        self.closing = True
        self.tell()

    async def wait(self, seen: int, timeout_s: float) -> int:
        """Wait until the number is another than `seen`, or the time is over; return the number."""
        if self.number == seen and not self.closing:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._event.wait()
            except TimeoutError:
                return self.number
        return self.number

    def _wake(self) -> None:
        self._event.set()
        self._event = asyncio.Event()
