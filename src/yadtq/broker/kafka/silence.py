"""How long Kafka has been silent, by the client's statistics: every answer of every broker counts.

To the client a cable that is out is no error: what it has asked for fails after a minute, and a message without a
report after 25 s. One invariant: looks are counted and not seconds, so a process that stood still takes nobody for
silent.
"""

import msgspec

LOOK_MS = 1_000  # between two looks
MOST = 7  # looks in a row without an answer; a member that waits for its group is told of topics every 5 s


class _Broker(msgspec.Struct):
    rx: int = 0  # answers that have come


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker]


class Silence:
    """Looks at the statistics of one client."""

    def __init__(self) -> None:
        self.looks = 0  # in a row, in which nothing had come since the look before
        self._answers = 0

    def look(self, statistics: str) -> None:
        """Take what the client tells every `LOOK_MS`."""
        found = msgspec.json.decode(statistics, type=_Statistics)
        answers = sum(broker.rx for broker in found.brokers.values())
        self.looks = self.looks + 1 if answers == self._answers else 0
        self._answers = answers
