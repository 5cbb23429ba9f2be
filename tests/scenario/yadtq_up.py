"""Runs `yadtq` as a user does, and looks at what is left."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

DEADLINE_S = 60


@dataclass
class Folder:
    """A working folder in which `yadtq` commands are run."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command and leave it running. Its errors go where its output goes."""
        return subprocess.Popen(
            [sys.executable, "-m", "yadtq", *arguments],
            cwd=self.path,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command to its end and return what it printed."""
        command = self.begin(*arguments)
        output, _ = command.communicate(timeout=DEADLINE_S)
        assert command.returncode == code, output
        assert "Traceback" not in output
        return output

    def interrupt_at(self, text: str, *arguments: str, number: signal.Signals = signal.SIGINT) -> str:
        """Run a command and send it a signal once it has printed a text."""
        command = self.begin(*arguments)
        assert command.stdout is not None
        seen = ""
        while text not in seen:
            line = command.stdout.readline()
            assert line, f"{text!r} was not printed before the end:\n{seen}"
            seen += line
        command.send_signal(number)
        rest, _ = command.communicate(timeout=DEADLINE_S)
        assert command.returncode == 130, seen + rest
        assert "Traceback" not in rest
        return seen + rest

    @property
    def services(self) -> dict[str, dict[str, str | int]]:
        """The processes that `yadtq up` noted."""
        table = json.loads((self.path / ".yadtq/services.json").read_text())
        return dict(table["processes"])

    def pid(self, name: str) -> int:
        return int(self.services[name]["pid"])

    def port(self, name: str) -> int:
        return int(self.services[name]["port"])

    def processes(self) -> list[str]:
        """Every process whose command line names this folder."""
        listed = subprocess.run(["ps", "-A", "-ww", "-o", "stat=,args="], capture_output=True, text=True, check=True)
        lines = (line.strip() for line in listed.stdout.splitlines())
        return [line for line in lines if str(self.path) in line and not line.startswith("Z")]


@contextmanager
def folder(path: Path, **environment: str) -> Iterator[Folder]:
    """A working folder; whatever runs in it at the end is ended."""
    path.mkdir(exist_ok=True)
    working = Folder(path, environment)
    try:
        yield working
    finally:
        working.run("down")


@contextmanager
def taken(*ports: int) -> Iterator[None]:
    """Hold ports as another program would. One that another program holds already is taken as well."""
    with ExitStack() as stack:
        for number in ports:
            try:
                stack.enter_context(socket.create_server(("127.0.0.1", number)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        yield


def addresses(banner: str) -> tuple[str, str]:
    """Kafka's and Valkey's address as the banner of `yadtq up` gives them."""
    kafka = re.search(r"^  Kafka +(\S+)", banner, re.M)
    redis = re.search(r"^  Valkey +(\S+)", banner, re.M)
    assert kafka
    assert redis
    return kafka[1], redis[1]
