"""The replacement of all runners of a pool, which are several crews: begun by a signal, told when it is complete.

One invariant: `reloaded` is told once for all that was asked for until then, and only while no runner with older code
takes attempts. Where new code cannot be imported it is not told: the old runners stay, and their crew has said so.
"""

import threading
from collections.abc import Collection

from yadtq.runners.crew import Crew
from yadtq.runners.protocol import OnEvent
from yadtq.runners.staff import Renewal


class Reload:
    """Watches the crews of a pool."""

    def __init__(self, crews: Collection[Crew], on_event: OnEvent) -> None:
        self._crews = crews
        self._on_event = on_event
        self._lock = threading.RLock()  # a signal handler may come upon another one that holds it
        self._asked = False

    def begin(self) -> None:
        """Have every runner replaced, in each crew one after the other. Safe in a signal handler."""
        with self._lock:  # else a crew that is not asked yet would look complete
            self._asked = True
            for crew in self._crews:
                crew.replace()

    def look(self) -> None:
        """Tell it, if it is complete. Called when something has become of a runner, on the thread of its crew."""
        with self._lock:
            if not self._asked:
                return
            renewals = {crew.renewal() for crew in self._crews}
            if Renewal.GOES_ON in renewals and Renewal.GIVEN_UP not in renewals:
                return
            self._asked = False
        if Renewal.GIVEN_UP not in renewals:
            pids = ", ".join(str(pid) for crew in self._crews for pid in crew.pids)
            self._on_event("reloaded", f"all runners have the code as it is now: {pids}")
