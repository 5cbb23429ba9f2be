"""Other queues, each in a virtual environment of its own, on the same Valkey in databases of their own.

One invariant: a peer that cannot be installed is left out and the report says so; it never fails a bench.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from yadtq.bench.site import Site
from yadtq.dev.process import Process
from yadtq.settings import redis_url

SCRIPTS = Path(__file__).parent
INSTALL_S = 300.0
DRAIN_S = 180.0


@dataclass(frozen=True)
class Peer:
    """How one queue is installed and started."""

    name: str
    packages: Sequence[str]
    databases: tuple[int, int]  # of its queue and of its results
    worker: Mapping[str, Sequence[str]]  # how its workers are started, by what they are to do
    about: str

    @property
    def folder(self) -> str:
        """The name of its environment: other versions get another one."""
        return re.sub(r"[^\w.]+", "-", "-".join(self.packages))


PEERS = (
    Peer(
        "celery",
        ("celery[redis]==5.7.0",),
        (1, 2),
        {
            "cpu": ("celery", "-A", "celery_app", "worker", "-P", "prefork", "-c", "2"),
            "io": ("celery", "-A", "celery_app", "worker", "-P", "threads", "-c", "100"),
        },
        "Celery 5.7.0, prefork, `-c 2`, results in the Redis backend, every other setting as it comes "
        "(acks early, so a killed worker loses what it ran; prefetch 4)",
    ),
    Peer(
        "dramatiq",
        ("dramatiq[redis]==2.2.1",),
        (3, 4),
        {
            "cpu": ("dramatiq", "dramatiq_app", "-p", "2", "-t", "8"),
            "io": ("dramatiq", "dramatiq_app", "-p", "2", "-t", "50"),
        },
        "Dramatiq 2.2.1, 2 processes of 8 threads, Results middleware in Redis, every other setting as it comes",
    ),
    Peer(
        "huey",
        ("huey[redis]==3.5.4",),
        (5, 5),
        {
            "cpu": ("huey_consumer", "huey_app.huey", "-w", "2", "-k", "process"),
            "io": ("huey_consumer", "huey_app.huey", "-w", "100", "-k", "thread"),
        },
        "Huey 3.5.4, 2 worker processes, results stored, every other setting as it comes",
    ),
)


class Peers:
    """The peers that are to be measured."""

    def __init__(self, folder: Path | None, *, own_redis: bool = True) -> None:
        """Look for them; nothing is installed yet.

        Args:
            folder: Where their environments lie or are made; None: they are left out.
            own_redis: The Valkey is the bench's own, so their databases may be emptied.
        """
        self._folder = folder
        self._own_redis = own_redis
        self._missing: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """Those that can be measured; the first look installs them."""
        for peer in PEERS:
            if peer.name not in self._missing:
                self._missing[peer.name] = self._install(peer)
        return [peer.name for peer in PEERS if not self._missing[peer.name]]

    def note(self, name: str) -> str:
        """How a peer is set, or why it is missing."""
        peer = find(name)
        reason = self._missing.get(name, "")
        return f"{name} is left out: {reason}" if reason else peer.about

    def _install(self, peer: Peer) -> str:
        """Make a peer's environment if it is missing; say why it cannot be used, or nothing."""
        if self._folder is None:
            return "asked for no peers"
        if not self._own_redis:
            return "the Valkey is not the bench's own, and a peer's databases are emptied"
        home = self._folder / peer.folder
        mark = home / ".ready"
        if mark.exists():
            return ""
        home.mkdir(parents=True, exist_ok=True)
        commands = (
            [sys.executable, "-m", "venv", "--clear", str(home)],
            [str(home / "bin" / "python"), "-m", "pip", "install", "-q", *peer.packages],
        )
        try:
            for command in commands:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", "") or "").strip().rsplit("\n", 1)[-1]
            return f"it could not be installed: {said or error}"
        mark.touch()
        return ""

    def bin(self, name: str, program: str) -> Path:
        """A program in a peer's environment."""
        if self._folder is None:
            raise AssertionError("there are no peers")
        return self._folder / find(name).folder / "bin" / program


class Arena:
    """One peer at work on the bench's Valkey."""

    def __init__(self, name: str, peers: Peers, site: Site) -> None:
        self._peer = find(name)
        self._peers = peers
        self._site = site
        root = redis_url(site.redis).rsplit("/", 1)[0]
        queue, results = (f"{root}/{number}" for number in self._peer.databases)
        # A file in their working folder: nothing that a user could set by accident.
        (site.folder / f"{name}.json").write_text(json.dumps({"queue": queue, "results": results}))
        self._environment = {"PYTHONPATH": str(SCRIPTS), "PYTHONDONTWRITEBYTECODE": "1"}
        self._databases = [redis.Redis.from_url(url) for url in dict.fromkeys((queue, results))]
        self._results = self._databases[-1]

    def empty(self) -> None:
        for database in self._databases:
            database.flushdb()

    def forget(self) -> None:
        """Drop the results; what its workers need stays."""
        if self._peer.name == "huey":
            self._results.delete("huey.results.peer")
        else:
            self._results.flushdb()

    def close(self) -> None:
        for database in self._databases:
            database.close()

    def ask(self, *words: object) -> dict[str, Any]:
        """Let the peer's script do something: fill, offer, results."""
        script = SCRIPTS / f"{self._peer.name}_app.py"
        command: list[str | Path] = [self._peers.bin(self._peer.name, "python"), script, *map(str, words)]
        return self._site.ask(f"{self._peer.name}-client", command, self._environment)

    @contextmanager
    def working(self, purpose: str = "cpu") -> Iterator[Process]:
        """Run its workers while the block runs."""
        program, *words = self._peer.worker[purpose]
        python, script = (self._peers.bin(self._peer.name, file) for file in ("python", program))
        with self._site.running(f"{self._peer.name}-{purpose}", [python, script, *words], self._environment) as process:
            yield process

    def done(self) -> int:
        """How many results there are."""
        if self._peer.name == "huey":
            return int(self._results.hlen("huey.results.peer"))
        return int(self._results.dbsize())

    def held(self) -> int:
        """How many tasks Celery's worker holds until they are due."""
        return int(self._databases[0].hlen("unacked"))

    def follow(self, total: int, process: Process) -> list[tuple[float, int]]:
        """Look how many are done, until all are; the moments and numbers of it."""
        return self._site.follow(self.done, total, self._peer.name, DRAIN_S, process)

    def results(self) -> list[Any]:
        """What the tasks returned, in no order."""
        return list(self.ask("results")["results"])


def find(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)
