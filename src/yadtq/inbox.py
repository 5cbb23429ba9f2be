"""What the engine is told, by the intake, the heartbeat, the runners and the producer.

One invariant: an event carries all that came at the same time, so a turn of the engine costs the same for one and for
hundreds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from yadtq.attempt import Outcome, Recalled, Started
from yadtq.broker import Record
from yadtq.intake import Assignment
from yadtq.settle import Reported


@dataclass(frozen=True, slots=True)
class Arrived:
    records: Sequence[tuple[Assignment, Record]]


@dataclass(frozen=True, slots=True)
class Assigned:
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Gone:
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Reborn:
    """The incarnation changed: what was claimed and has not started is not ours any more."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Finish what runs, claim nothing more."""


Inbox = Arrived | Assigned | Gone | Reported | Reborn | Drain | Sequence[Started | Outcome | Recalled]
