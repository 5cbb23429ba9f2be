"""The processes of the demo: started, listened to line by line, and ended by their handles on every path.

One invariant: leaving `Cast` leaves no process behind, whatever happened inside.
"""

import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from yadtq.settings import Settings

STOP_S = 5.0


class Player:
    """One process and what it says."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path, on_line: Callable[[str], None]) -> None:
        self.name = name
        self.process = process
        self._log = log
        self._on_line = on_line
        self._reader = threading.Thread(target=self._read, name=f"demo-{name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self.process.stdout is None:
            raise AssertionError("the output of a player is a pipe")
        with self._log.open("wb") as log:
            for raw in self.process.stdout:
                log.write(raw)
                log.flush()
                self._on_line(raw.decode("utf-8", "replace").rstrip())

    @property
    def exit_code(self) -> int | None:
        return self.process.poll()

    def finish(self) -> None:
        """Read what is left of the output of a process that has ended."""
        self._reader.join(STOP_S)

    def end(self) -> None:
        """End the process, gently first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


class Cast(AbstractContextManager["Cast"]):
    """All players of one demo."""

    def __init__(self, folder: Path, settings: Settings, environment: dict[str, str]) -> None:
        self.players: dict[str, Player] = {}
        self._sources: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._environment = {
            **environment,
            "YADTQ_KAFKA": settings.kafka.value,
            "YADTQ_REDIS": settings.redis.value,
        }

    def start(
        self, name: str, command: Sequence[str], on_line: Callable[[str], None], stdin: int = subprocess.DEVNULL
    ) -> Player:
        """Start a process in a session of its own: Ctrl+C is for the demo, which then ends its players in order."""
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )
        player = self.players[name] = Player(name, process, self._folder / f"{name}.log", on_line)
        return player

    def pipe(self, name: str, first: Sequence[str], second: Sequence[str], on_line: Callable[[str], None]) -> Player:
        """Start `first | second` as a shell would."""
        source = subprocess.Popen(first, stdout=subprocess.PIPE, env=self._environment, start_new_session=True)
        if source.stdout is None:
            raise AssertionError("the output of the first is a pipe")
        self._sources.append(source)
        try:
            return self.start(name, second, on_line, stdin=source.stdout.fileno())
        finally:
            source.stdout.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for source in self._sources:
            source.kill()
            source.wait()
        for player in self.players.values():
            player.end()
            player.finish()
