"""One lifecycle and one clock for everything that runs on a thread of its own.

One invariant: a `Service` that was started is stopped and joined by whoever started it, and what its thread raised is
raised again there: a loop never dies in silence.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Time as an argument, so that tests can turn it by hand."""

    def now_ms(self) -> int:
        """Epoch ms, for records."""

    def mono_s(self) -> float:
        """Seconds that count while the machine is suspended, for deadlines and the lease."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def mono_s(self) -> float:
        return time.clock_gettime(_BOOTTIME)


# CLOCK_BOOTTIME counts suspended time on Linux. macOS has no such name; its CLOCK_MONOTONIC counts it.
_BOOTTIME: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Service:
    """A loop on a thread: `start`, `stop`, `join`. Subclasses write `run` and look at `stopping`."""

    def __init__(self, name: str) -> None:
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self.turns = 0  # grows while the loop moves; the heartbeat looks at it
        self.ended = threading.Event()
        self.watchers: list[Callable[[], None]] = []  # called on the thread when `run` has returned or raised
        self._thread = threading.Thread(target=self._guard, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the loop to end; do not wait."""
        self.stopping.set()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; say whether it came in time."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def name(self) -> str:
        return self._thread.name

    @property
    def alive(self) -> bool:
        """Whether the loop was started and has not ended."""
        return self._thread.ident is not None and not self.ended.is_set()

    @property
    def stack(self) -> str:
        """Where its thread is at the moment, as a traceback shows it."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame else ""

    def run(self) -> None:
        """The loop itself."""
        raise AssertionError("a service has a run of its own")

    def _guard(self) -> None:
        try:
            self.run()
        except BaseException as error:  # kept, and raised again by whoever watches the service
            self.failure = error
        finally:
            self.ended.set()
            for watcher in self.watchers:
                watcher()
