"""Announcements within one process, for the ledger in memory.

One invariant: whoever closed its ear is told nothing more.
"""

from collections.abc import Sequence

from yadtq.ledger.protocol import OnHeard, OnIds


class Announcements:
    """Everybody who listens. `tell` comes from any thread, with no lock held."""

    def __init__(self) -> None:
        self._ears: list[Ear] = []

    def listen(self, on_ids: OnIds, on_heard: OnHeard) -> "Ear":
        ear = Ear(self._ears, on_ids)
        self._ears.append(ear)
        on_heard(True)
        return ear

    def tell(self, task_ids: Sequence[str]) -> None:
        for ear in list(self._ears):
            ear.on_ids(task_ids)


class Ear:
    """One listener."""

    def __init__(self, ears: "list[Ear]", on_ids: OnIds) -> None:
        self.on_ids = on_ids
        self._ears = ears

    def close(self) -> None:
        if self in self._ears:
            self._ears.remove(self)
