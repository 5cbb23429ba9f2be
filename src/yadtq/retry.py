"""What is done about an outcome: a pure decision.

One invariant: the same arguments give the same verdict; chance comes in as an argument. Deciding touches nothing:
the verdict becomes true only when the ledger accepts it.

Back-off is exponential with full jitter: the n-th wait is drawn evenly from 0 to base * 2^(n-1), up to the cap. Drawn
evenly and not around a mean, because retries that were caused by one event must not come back together.
Source: M. Brooker, "Exponential Backoff And Jitter", 2015.
"""

from dataclasses import dataclass

from yadtq.attempt import Ending, Outcome
from yadtq.states import State

BASE_S = 0.25
MAX_DEATHS = 3
CAP_S = 1.0  # waits stay in place and hold their partition, so they are short


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be made durable about an attempt. state: SUCCESS, FAILED, or QUEUED for a retry in place."""

    state: State
    result: bytes | None = None  # JSON, with SUCCESS
    error_log: str | None = None  # with FAILED and QUEUED
    wait_s: float = 0.0  # before the next claim, with QUEUED
    failed: bool = False  # the code failed: charged against max_attempts
    died: bool = False  # the process that ran it ended: charged against MAX_DEATHS


def decide(outcome: Outcome, *, failures: int, max_attempts: int, chance: float, deaths: int = 0) -> Verdict:
    """Decide about an outcome.

    Args:
        outcome: What the runner gave back.
        failures: How often the code of this task failed before.
        max_attempts: How many failures end the task.
        chance: A number from 0 to 1 that places the wait in its range.
        deaths: How often this task ended the process that ran it before.
    """
    if outcome.ending is Ending.RETURNED:
        return Verdict(State.SUCCESS, result=outcome.result)
    if outcome.ending in (Ending.RAISED, Ending.TIMED_OUT) and failures + 1 < max_attempts:
        wait_s = chance * min(CAP_S, BASE_S * 2.0 ** min(failures, 64))  # 2.0**1024 is an error
        return Verdict(State.QUEUED, error_log=outcome.error_log, wait_s=wait_s, failed=True)
    if outcome.ending is Ending.DIED:
        # C7: what follows is a full claim. A poisonous task must not go on for ever.
        state = State.QUEUED if deaths + 1 < MAX_DEATHS else State.FAILED
        return Verdict(state, error_log=outcome.error_log, died=True)
    return Verdict(State.FAILED, error_log=outcome.error_log, failed=True)
