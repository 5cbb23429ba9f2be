"""What the embedded services have in common: how one is started, asked and described.

One invariant: a node knows its service and runs nothing itself; `services` runs all of them in one way.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from yadtq.dev.jars import OnProgress
from yadtq.dev.process import Interrupt

TAIL_LINES = 8
_TAIL_BYTES = 16_384


class Reporter(Protocol):
    """Is told how a start goes on."""

    def note(self, text: str, /) -> None:
        """Something a user should know."""

    def state(self, service: str, text: str, /) -> None:
        """What a service is doing now."""

    def download(self, text: str, /) -> AbstractContextManager[OnProgress]:
        """A download begins; the function is told how far it is."""


class Silent:
    """A reporter for programs and tests."""

    def note(self, _text: str) -> None:
        """Say nothing."""

    def state(self, _service: str, _text: str) -> None:
        """Say nothing."""

    @contextmanager
    def download(self, _text: str) -> Iterator[OnProgress]:
        yield lambda _done, _total, _bytes: None


@dataclass(frozen=True)
class Launch:
    """How to start a service now that all it needs is in place."""

    command: list[str]
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)
    suspect: Path | None = None  # a file that only saves time: when the start fails, it is removed and tried without


class Node(Protocol):
    """One kind of service."""

    name: str
    title: str
    usual_port: int
    start_s: float  # an error when it has not answered after this
    stop_s: float  # killed when it has not ended after this
    log: Path  # takes what its process writes

    def address(self, number: int) -> str:
        """How clients name the service on a port."""

    def launch(self, number: int, reporter: Reporter, interrupt: Interrupt, /) -> Launch:
        """Put in place what it needs and say how to start it."""

    def answers(self, number: int, pid: int, /) -> bool:
        """Whether the service itself, and not a stranger on its port, is ready to work."""

    def last_words(self) -> str:
        """The end of its logs, for an error."""

    def stopped(self) -> None:
        """Its process has ended in order."""


def tail(path: Path) -> str:
    """The last lines of a log, indented; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    except FileNotFoundError:
        return ""
    return "".join(f"    {line[:300]}\n" for line in lines)
