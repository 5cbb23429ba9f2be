"""What YADTQ needs of a ledger: claims, outcomes, heartbeats and runs. The port that Redis and the memory ledger fill.

One invariant: every method is one atomic move, safe to send again when its answer was lost. Time is the ledger's own
clock. Everything raises LedgerUnavailable where the store does not answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from yadtq.codec import OutcomeRecord
from yadtq.states import FINAL, State

if TYPE_CHECKING:
    from yadtq.ledger.due import DueIndex

MAX_TAKEOVERS = 20  # lost workers that end a task
FORGET_MS = 86_400_000  # a worker that was silent for so long is dropped
PRODUCER_LEASE_MS = 10_000  # a producer that was silent for so long does not hold up the end of a run


# What is made for every task is a struct: 0.1 us each, a named tuple 0.4, a frozen dataclass 0.8. So are most others:
# defining one takes 0.02 ms of every start, a dataclass with slots 0.8.


class Claim(Struct, frozen=True, array_like=True, gc=False):
    """The wish to run one opened record of the topic that the batch is about."""

    task_id: str
    token: str  # one per opened record and try: the same token gets the same answer (C2)
    task_type: str
    partition: int
    offset: int
    queued_at_ms: int
    tries: int  # attempts already made elsewhere
    max_attempts: int
    refusal: str = ""  # not empty: nothing here can run it; settle it FAILED with this error log
    generation: int = 0  # which planned run this is
    in_doubt: bool = False  # it may have ended long ago (R5): an absent record is no free pass


class Run(Struct, frozen=True, array_like=True, gc=False):
    """Yes: run it under this fence."""

    fence: str  # epoch.counter, raised by each claim, compared for equality
    attempt: int  # how-manieth start of user code this is
    failures: int  # how often the code failed before
    started_at_ms: int
    taken_from: str = ""  # the lost worker whose claim this takes over
    deaths: int = 0  # how often it ended the process that ran it


class Over(Struct, frozen=True):
    """The task has its verdict: repeat its writes where `record.sealed` is false, then close."""

    record: "TaskRecord"


class Resend(Struct, frozen=True):
    """A retry was accepted for this generation and may not be in Kafka: produce it again, then close (C4)."""

    record: "TaskRecord"


class Stale(Struct, frozen=True):
    """A later generation goes on in its own record, and Kafka has that one: close (C4)."""


class Elsewhere(Struct, frozen=True):
    """A living worker holds it; ask again later."""

    worker: str


class Refusal(StrEnum):
    """Why a claim got no answer."""

    WAIT = "WAIT"  # the ledger has no epoch for this queue: it was wiped or is new; nothing of the batch was done
    DEAD = "DEAD"  # the asking incarnation is not alive; start a new one first
    UNREAD = "UNREAD"  # it may have ended before its record was forgotten: read the outcomes first (C8, R5)


Answer = Run | Over | Resend | Stale | Elsewhere | Refusal


class Accept(Struct, frozen=True, array_like=True, gc=False):
    """Settle, step 1: make a verdict the one that counts, if the fence is still the present one."""

    task_id: str
    fence: str
    state: State  # SUCCESS, FAILED, QUEUED for a retry in place, SCHEDULED for one that waits in `Q.delayed`
    wait_ms: int = 0  # with SCHEDULED
    failed: bool = False  # the code failed: counts against max_attempts
    died: bool = False  # it ended the process that ran it: counts against MAX_DEATHS
    result: bytes | None = None
    error_log: str | None = None


class Seal(Struct, frozen=True, array_like=True, gc=False):
    """Settle, step 3: Kafka has the outcome; only now it is final for users, and may expire.

    Of a retry: Kafka has its envelope, which carries the task from here on.
    """

    task_id: str
    fence: str


class Release(Struct, frozen=True, array_like=True, gc=False):
    """Give back a claim that has not started: QUEUED again, the attempt given back, the fence stays raised (C1)."""

    task_id: str
    fence: str


class Batch(Struct, frozen=True):
    """What goes to the ledger in one round trip."""

    accepts: Sequence[Accept] = ()
    seals: Sequence[Seal] = ()
    releases: Sequence[Release] = ()
    claims: Sequence[Claim] = ()

    def __bool__(self) -> bool:
        return bool(self.accepts or self.seals or self.releases or self.claims)

    @property
    def brings(self) -> bool:
        """Whether a store that is full refuses it; an empty one asks that too."""
        return bool(self.accepts or self.claims) or not self


class Answers(Struct, frozen=True):
    """What came back, each in the order of the batch."""

    # Epoch ms at which it was accepted, of a retry the time it waits for; None: refused, it is not the present attempt
    accepts: Sequence[int | None] = ()
    seals: Sequence[bool] = ()  # False: refused
    claims: Sequence[Answer] = ()
    waiting: bool = False  # WAIT: nothing was done; ask again when the ledger is open
    epoch: int = 0  # the present one: what is written to Kafka now has to bear it (R4)


class Held(Struct, frozen=True, array_like=True, gc=False):
    """An attempt that runs, or has run and is not accepted, while the ledger waits to be read in (R3)."""

    task_id: str
    fence: str
    task_type: str
    partition: int
    offset: int
    queued_at_ms: int
    attempt: int
    failures: int
    deaths: int
    generation: int
    started_at_ms: int


class Errand(StrEnum):
    """What whoever offers to read the outcomes in has to do."""

    NOTHING = "NOTHING"  # the ledger is open, and the outcomes were read
    EARLY = "EARLY"  # some may not have registered yet; offer again
    TAKEN = "TAKEN"  # another one does it
    REBUILD = "REBUILD"  # read all and open a new life
    READ = "READ"  # read what is forgotten; the life goes on


class TaskRecord(Struct, frozen=True):
    """One task as the ledger has it."""

    task_id: str
    status: State  # as accepted; users see `shown`
    sealed: bool
    task_type: str
    attempts: int
    fence: str
    worker: str | None
    result: bytes | None
    error_log: str | None
    queued_at_ms: int | None
    started_at_ms: int | None
    finished_at_ms: int | None
    topic: str
    partition: int
    offset: int
    generation: int = 0
    not_before_ms: int = 0  # with SCHEDULED
    failures: int = 0
    deaths: int = 0

    @property
    def final(self) -> bool:
        """Kafka has the outcome: users may see it, and it will not change."""
        return self.sealed and self.status in FINAL

    @property
    def shown(self) -> State:
        """The state for users: an accepted outcome that Kafka does not hold yet could still be lost with Redis (S1)."""
        return State.PROCESSING if self.status in FINAL and not self.sealed else self.status


class Pulse(StrEnum):
    """The answer to a beat."""

    ALIVE = "ALIVE"
    DEAD = "DEAD"  # the beat before was too long ago: claims may have been taken over
    SUPERSEDED = "SUPERSEDED"  # a newer process registered under the name


class Beat(Struct, frozen=True):
    """One heartbeat. first: the start of a process. replaces: the incarnation that this one follows, after DEAD."""

    name: str
    incarnation: str
    lease_ms: int
    topic: str = ""
    partitions: Sequence[int] = ()
    host: str = ""
    pid: int = 0
    order: str = ""  # how it serves the topic: unordered, key or partition
    first: bool = False
    replaces: str = ""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker as `all_heartbeats` has it. status: ALIVE or DEAD by the allowed delay of whoever looked."""

    name: str
    status: str
    last_heartbeat_ms: int
    age_ms: int  # since the last beat, by the ledger's clock
    incarnation: str = ""
    topic: str = ""
    partitions: Sequence[int] = field(default_factory=tuple)
    host: str = ""
    pid: int = 0
    order: str = ""
    left: bool = False  # it is DEAD because it said that it leaves, not because its beats ended


class RunRecord(Struct, frozen=True):
    """One run of the original command lines on a topic, from the first producer to the end."""

    number: int  # from 1; 0: there was none yet
    ended: bool
    ending: bool  # every producer that is alive gave `end`: over as soon as everything is done


class NewTask(Struct, frozen=True):
    """A task that Kafka has, for its QUEUED record."""

    task_id: str
    task_type: str
    topic: str
    partition: int
    offset: int
    queued_at_ms: int
    tries: int = 0
    not_before_ms: int = 0  # it waits for a time: SCHEDULED


OnIds = Callable[[Sequence[str]], None]
Meanwhile = Callable[[], bool]
OnHeard = Callable[[bool], None]


class Listening(Protocol):
    """An ear for announcements."""

    def close(self) -> None:
        """Tell nothing more; return at once."""


class Question(Protocol):
    """A batch that was sent."""

    def answers(self, meanwhile: Meanwhile | None = None) -> Answers:
        """Wait for the answers.

        Args:
            meanwhile: Called again and again while they are on their way, until it returns False. It must not ask the
                ledger anything.

        Raises:
            LedgerUnavailable: There are none. The moves may have been made: send them again.
        """


class Ledger(Protocol):
    """The store of claims and outcomes. Thread-safe."""

    @property
    def due(self) -> "DueIndex":
        """The index of what waits for a time, in the same store."""

    def register(self, topic: str, worker: str, incarnation: str, attempts: Sequence[Held]) -> int | None:
        """Write what this incarnation runs into a ledger that waits; an attempt that was superseded is left out.

        Return for how many ms it has been waiting; None: it is open, and nothing was written.
        """

    def take(self, topic: str, token: str, least_ms: int) -> Errand:
        """Offer to read the outcomes of a queue in, under a token of one's own, when it has waited for so long."""

    def allot(self, topic: str, token: str, floor: int) -> int | None:
        """Return an epoch above the floor and all that were allotted; None: the errand is not this token's any more."""

    def restore(
        self, topic: str, token: str, outcomes: Sequence[OutcomeRecord], *, absent_only: bool = False
    ) -> int | None:
        """Write what Kafka has, in the order of each partition; return how many became records, None like `allot`."""

    def open(self, topic: str, token: str, epoch: int, batches: int) -> bool:
        """Begin a life with this epoch, or end the reading where it is 0. batches: how many `restore` took.

        False: the errand is not this token's any more, or the ledger has lost some of it; begin anew.
        """

    def drop(self, topic: str, token: str) -> None:
        """Give the errand back."""

    def queued(self, tasks: Sequence[NewTask]) -> None:
        """Write QUEUED records; a task that has a record keeps it, whatever it says."""

    def ask(self, topic: str, worker: str, incarnation: str, batch: Batch) -> Question:
        """Send a batch of moves on tasks of one queue. One round trip.

        A worker asks about a queue again only when it has the answers to what it asked before: they say which of its
        calls this ledger knows (R2).
        """

    def exchange(self, topic: str, worker: str, incarnation: str, batch: Batch) -> Answers:
        """Ask and wait for the answers."""

    def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        """Return the records of these tasks; None where there is none."""

    def listen(self, on_ids: OnIds, on_heard: OnHeard) -> Listening:
        """Tell which tasks become final, as it happens, on a thread of the ledger's own.

        Args:
            on_ids: Told the ids of tasks; asked for now, their records are final.
            on_heard: Told True when ends are announced from now on, and False when they may be no more. What became
                final before a True was not announced.
        """

    def beat(self, beat: Beat) -> Pulse:
        """Write a heartbeat, if it may be written."""

    def leave(self, name: str, incarnation: str) -> None:
        """Say that this incarnation is over: its claims may be taken over at once."""

    def workers(self, allowed_ms: int = 0, *, mark: bool = False) -> list[WorkerRecord]:
        """Return every worker with its status. allowed_ms: 0 takes each one's own lease; mark writes the status too."""

    def run_beat(
        self, topic: str, producer: str, *, ended: bool = False, left: bool = False, known: int = 0
    ) -> RunRecord:
        """Say that a producer is at work on a topic, gave `end`, or left. Opens a new run where the last one ended.

        known: The run that the producer takes part in; where a wipe took it away it is opened again.
        """

    def run_close(self, topic: str, number: int) -> None:
        """End this run, if it is the present one."""

    def runs(self) -> dict[str, RunRecord]:
        """Return the present run of each topic."""

    def close(self) -> None: ...
