"""How many attempts one runner is given beyond its slots, and how long they run there.

One invariant: where nothing has finished lately, nothing is given beyond the slots. So tiny tasks travel in batches
that grow by themselves, and slow ones are never claimed before they can start.
"""

AHEAD_S = 0.05  # what a runner finishes in this time covers the way to the worker, Redis and back
AHEAD_MOST = 500
STALE_S = 0.1
SLOW_S = 0.01  # what waits for a task that runs so long is worth a recall, to start elsewhere
WINDOW_S = 0.01


class Pace:
    """Counts what finishes while there is something to do, by windows.

    Time without work does not count: a runner that waits for its worker would look slow, would be given less, and would
    wait all the more.
    """

    def __init__(self) -> None:
        self._rate = 0.0  # per busy second, of the last whole window
        self._count = 0
        self._ran_s = 0.0
        self._busy_s = 0.0
        self._since_mono: float | None = None  # busy from here on, as far as it is not in `_busy_s`
        self.last_mono = float("-inf")
        self.task_s = 0.0  # how long one ran, in the last whole window

    def given(self, now_mono: float) -> None:
        """Something was given."""
        if self._since_mono is None:
            self._since_mono = now_mono

    def finished(self, count: int, ran_s: float, now_mono: float, *, idle: bool) -> None:
        """Something finished. ran_s: what it ran, in all. idle: nothing that was given is left."""
        self._count += count
        self._ran_s += ran_s
        self.last_mono = now_mono
        if self._since_mono is not None:
            self._busy_s += now_mono - self._since_mono
        self._since_mono = None if idle else now_mono
        if self._busy_s >= WINDOW_S:
            self._rate, self.task_s = self._count / self._busy_s, self._ran_s / max(self._count, 1)
            self._count, self._ran_s, self._busy_s = 0, 0.0, 0.0

    def ahead(self, now_mono: float) -> int:
        if now_mono - self.last_mono > STALE_S:
            return 0
        return min(int(self._rate * AHEAD_S), AHEAD_MOST)
