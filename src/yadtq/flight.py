"""What is on its way to the ledger together, and comes back together where no answer came.

One invariant: what is in a flight is in no list of the engine or the settler, and the other way round.
"""

from dataclasses import dataclass

from yadtq.catalogue import Known
from yadtq.claim import Work
from yadtq.ledger import Batch, Question, Release
from yadtq.settle import accept_of, seal_of
from yadtq.writes import Writes


@dataclass(slots=True)
class Flight:
    """One batch."""

    accepting: list[Work]
    sealing: list[Writes]
    releasing: list[Release]
    asking: list[Work]
    incarnation: str  # in whose name it asks
    question: Question | None = None

    def batch(self, known: Known) -> Batch:
        """What the ledger is told of them."""
        return Batch(
            accepts=[accept_of(work) for work in self.accepting],
            seals=[seal_of(writes) for writes in self.sealing],
            releases=self.releasing,
            claims=[work.claim(known) for work in self.asking],
        )
