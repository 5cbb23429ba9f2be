"""A batch whose moves were made as it was asked, where there is no way to go: in memory, and in tests.

One invariant: whoever waits for the answers goes on meanwhile, as where they take their time.
"""

from yadtq.ledger.protocol import Answers, Meanwhile


class Made:
    """The answers are there."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def answers(self, meanwhile: Meanwhile | None = None) -> Answers:
        while meanwhile is not None and meanwhile():
            continue
        return self._answers
