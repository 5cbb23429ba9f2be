"""What a runner is given and what it gives back.

One invariant: an attempt names everything its run needs, so a runner asks nobody, and an outcome names its attempt by
number alone. Both are plain values; they can cross a pipe. Structs, because they are made for every task.
"""

from enum import StrEnum
from typing import Literal, NamedTuple

from msgspec import Struct

# Where it runs: beside others; alone in a process, by its definition; or alone because it has ended a process before.
Place = Literal["shared", "solo", "suspect"]


class Attempt(Struct, frozen=True, gc=False):
    """One run of user code, claimed and fenced."""

    number: int  # unique within the life of one worker
    task_id: str
    task_type: str
    args: bytes  # JSON array
    kwargs: bytes  # JSON object
    attempt: int  # how-manieth start of this task this is, from 1
    fence: str  # what lets this attempt write, and no other
    place: Place = "shared"
    time_limit_s: float = 0.0  # how long it may run; 0: as long as it takes. Kept for what is solo only
    incarnation: str = ""  # of the worker, when it was claimed: the lease under which it may start


class Lease(NamedTuple):
    """What may start, and until when (C6). One value, so that nobody sees the end of one with the name of another."""

    incarnation: str = ""  # what was claimed by another one does not start any more
    until_s: float = 0.0  # by a clock that counts suspended time: `Clock.mono_s`

    def allows(self, incarnation: str, now_s: float) -> bool:
        """Whether what this incarnation has claimed may start now."""
        return incarnation == self.incarnation and now_s < self.until_s


class Ending(StrEnum):
    """How the run of an attempt ended."""

    RETURNED = "returned"
    RAISED = "raised"
    BAD_ARGUMENTS = "bad arguments"  # they do not fit the signature; the code did not run
    BAD_RESULT = "bad result"  # it returned something that is not JSON or too large; running again would not help
    REJECTED = "rejected"  # it said, or its policy says, that running again would not help
    SNOOZED = "snoozed"  # it asked to be run again after a while
    DIED = "died"  # the process that ran it ended under it; error_log says how
    LOST = "lost"  # it ended, and the process that ran it did too before anybody heard how; error_log says how
    TIMED_OUT = "timed out"  # it ran longer than its time limit, and its process was killed


class Outcome(Struct, frozen=True, array_like=True, gc=False):
    """What became of one attempt."""

    number: int
    ending: Ending
    started_at_ms: int  # epoch ms, the runner's clock
    finished_at_ms: int
    result: bytes | None = None  # JSON, with RETURNED
    error_log: str | None = None  # traceback or explanation, with everything else
    after_s: float | None = None  # the wait before the next run, where the task or its policy names one


class Started(Struct, frozen=True, gc=False):
    """User code of this attempt is about to start."""

    number: int


class Recalled(Struct, frozen=True, gc=False):
    """This attempt had not started and will not: it was recalled, or its lease was over."""

    number: int
