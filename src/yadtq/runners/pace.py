"""How many attempts one runner is given beyond its slots.

One invariant: where nothing has finished lately, nothing is given beyond the slots. So tiny tasks travel in batches
that grow by themselves, and slow ones are never claimed before they can start.
"""

AHEAD_S = 0.02  # what a runner finishes in this time covers the way to the worker and back
AHEAD_MOST = 500
STALE_S = 0.1
WINDOW_S = 0.01


class Pace:
    """Counts what finishes, by windows."""

    def __init__(self, now_mono: float) -> None:
        self._rate = 0.0  # per second, of the last whole window
        self._count = 0
        self._from_mono = now_mono
        self.last_mono = float("-inf")

    def finished(self, count: int, now_mono: float) -> None:
        self._count += count
        self.last_mono = now_mono
        if (elapsed_s := now_mono - self._from_mono) >= WINDOW_S:
            self._rate = self._count / elapsed_s
            self._count, self._from_mono = 0, now_mono

    def ahead(self, now_mono: float) -> int:
        if now_mono - self.last_mono > STALE_S:
            return 0
        return min(int(self._rate * AHEAD_S), AHEAD_MOST)
