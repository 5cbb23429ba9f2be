"""Opens a ledger in tests that are not about its opening: nothing is read in, and nobody is waited for."""

from yadtq.ledger import Errand, Ledger


def open_ledger(ledger: Ledger, topic: str) -> None:
    """Give the ledger an epoch and a read mark for this queue, where they are missing."""
    errand = ledger.take(topic, "test", 0)
    if errand is Errand.NOTHING:
        return
    epoch = ledger.allot(topic, "test", 0) if errand is Errand.REBUILD else 0
    assert epoch is not None
    assert ledger.open(topic, "test", epoch, 0)
