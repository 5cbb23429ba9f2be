"""The states of a task and the only table of legal moves between them.

One invariant: a final state has no way out. Nothing else in the project decides what may follow what; the ledger's
scripts are tested against this table.
"""

from enum import StrEnum


class State(StrEnum):
    """Where a task stands, as users see it."""

    SCHEDULED = "SCHEDULED"  # waits for a time, the first or that of a retry
    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


FINAL = frozenset({State.SUCCESS, State.FAILED})

TRANSITIONS: dict[State, frozenset[State]] = {
    # -> FAILED: nothing has to run to know it, such as an unknown task type. -> QUEUED: its time has come.
    State.SCHEDULED: frozenset({State.QUEUED, State.PROCESSING, State.FAILED}),
    State.QUEUED: frozenset({State.PROCESSING, State.FAILED}),
    # -> PROCESSING: the owner died and another worker claims. -> QUEUED, SCHEDULED: a retry, or a claim given back.
    State.PROCESSING: frozenset(State),
    State.SUCCESS: frozenset(),
    State.FAILED: frozenset(),
}
