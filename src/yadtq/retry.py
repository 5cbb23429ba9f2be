"""What is done about an outcome: a pure decision, and the policy that it follows.

One invariant: the same arguments give the same verdict; chance comes in as an argument. Deciding touches nothing:
the verdict becomes true only when the ledger accepts it.

Back-off is exponential with full jitter: the n-th wait is drawn evenly from 0 to base * 2^(n-1), up to the cap. Drawn
evenly and not around a mean, because retries that were caused by one event must not come back together.
Source: M. Brooker, "Exponential Backoff And Jitter", 2015.
"""

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from yadtq.attempt import Ending, Outcome
from yadtq.errors import InvalidTask
from yadtq.states import State

MAX_DEATHS = 3
IN_PLACE_S = 1.0  # a wait up to this is spent in the worker; a longer one in `Q.delayed`, where it holds nothing up


class Control(Exception):
    """Raised by a task to say what is to be done about it; no failure of the code."""

    wish: Literal["retry", "snooze", "reject"]
    after_s: float | None = None


class Retry(Control):
    """Run me again: counts as a failure, like any error.

    Args:
        after_s: How long to wait; the policy's back-off where left out.
        reason: For the error log.
    """

    wish = "retry"

    def __init__(self, after_s: float | None = None, reason: str = "") -> None:
        super().__init__(reason or "the task asked to be run again")
        self.after_s = after_s


class Snooze(Control):
    """Run me again later: uses up no attempt."""

    wish = "snooze"

    def __init__(self, after_s: float, reason: str = "") -> None:
        super().__init__(reason or "the task asked to wait")
        self.after_s = after_s


class Reject(Control):
    """Do not run me again: FAILED at once, with a dead letter."""

    wish = "reject"

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the task refused its arguments")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and after how long a task that failed runs again.

    Args:
        base_s: The longest first wait.
        cap_s: The longest wait.
        give_up_on: Exceptions that end the task at once.
        only_on: If not empty, the exceptions that are tried again; all others end the task at once.
        waits_s: A wait of its own for an exception; the first class that fits counts. No jitter.
    """

    base_s: float = 0.25
    cap_s: float = 60.0
    give_up_on: tuple[type[BaseException], ...] = ()
    only_on: tuple[type[BaseException], ...] = ()
    waits_s: tuple[tuple[type[BaseException], float], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.base_s <= self.cap_s <= MAX_WAIT_S:
            raise InvalidTask(f"0 <= base_s <= cap_s <= {MAX_WAIT_S}, not {self.base_s:g} and {self.cap_s:g}")
        if any(not 0 <= wait_s <= MAX_WAIT_S for _, wait_s in self.waits_s):
            raise InvalidTask(f"a wait is from 0 to {MAX_WAIT_S} s")

    def gives_up(self, error: BaseException) -> bool:
        """Whether this error ends the task."""
        return isinstance(error, self.give_up_on) or bool(self.only_on and not isinstance(error, self.only_on))

    def wait_s(self, error: BaseException) -> float | None:
        """The wait that this error has of its own."""
        return next((wait_s for kind, wait_s in self.waits_s if isinstance(error, kind)), None)


MAX_WAIT_S = 366 * 86_400
DEFAULT = RetryPolicy()


class Verdict(Struct, frozen=True, gc=False):
    """What is to be made durable about an attempt.

    state: SUCCESS, FAILED, QUEUED for a retry in place, or SCHEDULED for one that waits in `Q.delayed`.
    """

    state: State
    result: bytes | None = None  # JSON, with SUCCESS
    error_log: str | None = None  # with all others
    wait_s: float = 0.0  # before the next claim, with QUEUED and SCHEDULED
    failed: bool = False  # the code failed: charged against max_attempts
    died: bool = False  # the process that ran it ended: charged against MAX_DEATHS
    lost: bool = False  # and the code had come to its end before: charged all the same, and told as what it is

    @property
    def charged(self) -> bool:
        """Whether it brings the task nearer to its end."""
        return self.failed or self.died


def decide(
    outcome: Outcome,
    *,
    failures: int,
    max_attempts: int,
    chance: float,
    deaths: int = 0,
    policy: RetryPolicy = DEFAULT,
    in_place: bool = False,
) -> Verdict:
    """Decide about an outcome.

    Args:
        outcome: What the runner gave back.
        failures: How often the code of this task failed before.
        max_attempts: How many failures end the task.
        chance: A number from 0 to 1 that places the wait in its range.
        deaths: How often this task ended the process that ran it before.
        policy: How long to wait.
        in_place: Wait in the worker, however long: where an order is kept the others have to wait too.
    """
    log = outcome.error_log
    match outcome.ending:
        case Ending.RETURNED:
            return Verdict(State.SUCCESS, result=outcome.result)
        case Ending.SNOOZED:
            return _later(outcome.after_s or 0.0, log, in_place)
        case Ending.RAISED | Ending.TIMED_OUT if failures + 1 < max_attempts:
            wait_s = outcome.after_s
            if wait_s is None:
                wait_s = chance * min(policy.cap_s, policy.base_s * 2.0 ** min(failures, 64))  # 2.0**1024 is an error
            return _later(wait_s, log, in_place, failed=True)
        case Ending.DIED | Ending.LOST:
            # C7: what follows is a full claim. A poisonous task must not go on for ever, nor one that leaves behind
            # what ends its process after it; and a death makes it run alone, where nobody else can be the cause.
            state = State.QUEUED if deaths + 1 < MAX_DEATHS else State.FAILED
            return Verdict(state, error_log=log, died=True, lost=outcome.ending is Ending.LOST)
        case _:
            return Verdict(State.FAILED, error_log=log, failed=True)


def _later(wait_s: float, error_log: str | None, in_place: bool, *, failed: bool = False) -> Verdict:
    wait_s = min(max(wait_s, 0.0), MAX_WAIT_S)
    state = State.QUEUED if in_place or wait_s <= IN_PLACE_S else State.SCHEDULED
    return Verdict(state, error_log=error_log, wait_s=wait_s, failed=failed)
