"""Reports on their way from the client to those who wait for them, in lists.

One invariant: a report that was added is handed over once. Both happen on one thread, so nothing is locked.
"""

from typing import Any

from yadtq.broker.protocol import OnReports, Report

MOST = 500  # under full flow one poll brings tens of thousands, and who waits for the first waits for all of them


class Reports:
    """What one poll of the client brings, sorted by who waits for it."""

    def __init__(self) -> None:
        self._waiting: dict[OnReports[Any], list[tuple[Any, Report]]] = {}

    def add(self, on_reports: OnReports[Any], tag: object, report: Report) -> None:
        pairs = self._waiting.get(on_reports)
        if pairs is None:
            pairs = self._waiting[on_reports] = []
        pairs.append((tag, report))
        if len(pairs) >= MOST:
            on_reports(self._waiting.pop(on_reports))

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def hand_over(self) -> None:
        """Give everybody what came for them."""
        while self._waiting:
            on_reports, pairs = self._waiting.popitem()
            on_reports(pairs)
