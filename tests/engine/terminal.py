"""Commands on the memory ports of a stage.

One invariant: a command fails where its test says so, with the error that it says, and nowhere else.
"""

import pytest
from stage import Stage
from typer.testing import CliRunner, Result

import yadtq.broker
import yadtq.ledger
from yadtq.cli import build


class Terminal:
    """The commands of one noun, on a stage of two partitions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, noun: str) -> None:
        self.stage = Stage(2)
        self._noun = noun
        monkeypatch.setattr(yadtq.broker, "connect", lambda settings: self.stage.broker)
        monkeypatch.setattr(yadtq.ledger, "connect", lambda settings: self.stage.ledger)

    def run(self, *words: str, fails: type[BaseException] | None = None) -> Result:
        result = CliRunner().invoke(build(), [self._noun, *words])
        if fails is None:
            assert result.exception is None, result.exception
        else:
            assert isinstance(result.exception, fails), result.output
        return result
