"""Which records of `Q.outcomes` count: one rule for everybody who reads the topic.

One invariant: a marker says that a new life of the ledger began. An outcome of an earlier life that stands behind it
was written by somebody who missed that: its task has been given out again, and it does not count (R4). The highest
marker of a partition decides, so a marker that comes late does no harm.
"""

from collections.abc import Mapping

from yadtq.broker import Record, TopicPartition
from yadtq.codec import OutcomeRecord, decode_marker, decode_outcome
from yadtq.layout import HEADER_MARKER


class Validity:
    """Reads the records of partitions, each in its order.

    Args:
        epochs: The highest marker of each partition before the place where the reading begins.
    """

    def __init__(self, epochs: Mapping[TopicPartition, int] | None = None) -> None:
        self.epochs: dict[TopicPartition, int] = dict(epochs or {})

    def read(self, record: Record) -> OutcomeRecord | None:
        """Return the outcome; None for a marker, and for an outcome that does not count.

        Raises:
            Undecodable: It is neither.
        """
        standing = self.epochs.get(record.where, 0)
        if HEADER_MARKER in record.headers:
            self.epochs[record.where] = max(standing, decode_marker(record.value).epoch)
            return None
        outcome = decode_outcome(record.value)
        return outcome if epoch_of(outcome.fence) >= standing else None


def epoch_of(fence: str) -> int:
    """The life of the ledger in which this fence was given; 0 where it names none."""
    epoch = fence.partition(".")[0]
    return int(epoch) if epoch.isdecimal() and epoch.isascii() and len(epoch) < 17 else 0
