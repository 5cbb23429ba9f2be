"""Kafka's jars in a per-user cache: fetched once, each checked against the SHA-256 that this project keeps.

One invariant: what stands in the cache under its own name had the right sum when it was put there.

When this process dies: a folder of half downloads is left; the next fetch removes it. Jars that were complete stay.
"""

import errno
import hashlib
import logging
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from yadtq.dev.java import INSTALL
from yadtq.dev.lock import exclusive
from yadtq.dev.process import POLL_S, Interrupt
from yadtq.errors import ServiceError

KAFKA_VERSION = "4.4.0"
LIST = Path(__file__).with_name("kafka_jars.txt")
PARALLEL = 8
LEAVE_S = 2.0  # how long an interrupted fetch waits for its threads, which stop at the next piece of data

OnProgress = Callable[[int, int, int], None]  # jars done, jars in all, bytes so far


@dataclass(frozen=True)
class Jar:
    """One artifact and its sum."""

    sha256: str
    group: str
    artifact: str
    version: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def is_in(self, path: Path) -> bool:
        """Whether the file is this jar, whole and unchanged."""
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except FileNotFoundError:
            return False


Fetch = Callable[[Jar, Path, Callable[[int], None]], Path]  # into an empty folder, telling the size of each piece


class Stopped(Exception):
    """Raised in a fetching thread once the others are not needed any more."""


def wanted() -> tuple[Jar, ...]:
    """The jars of Kafka and of all it needs, as Maven's own resolver picks them."""
    lines = (line.split() for line in LIST.read_text().splitlines())
    return tuple(Jar(sha256, *coordinates.split(":")) for sha256, coordinates in lines)


def cache_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """This user's cache."""
    if given := environ.get("XDG_CACHE_HOME"):
        return Path(given) / "yadtq"
    return Path.home() / ("Library/Caches" if platform == "darwin" else ".cache") / "yadtq"


def fetch_with_jgo(jar: Jar, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """Fetch one artifact from wherever this machine's Maven clients fetch theirs.

    By itself: jgo's resolver of dependencies picks other versions of what Kafka needs than Maven does.
    """
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ImportError:
        raise ServiceError(f"fetching Kafka needs the package jgo: {INSTALL}") from None
    # It warns where a sum differs; that is decided here, by a stronger sum.
    logging.getLogger("jgo").addHandler(logging.NullHandler())

    @contextmanager
    def progress(_name: str, _size_bytes: int) -> Iterator[Callable[[int], None]]:
        yield on_bytes

    context = MavenContext(resolver=PythonResolver(progress_callback=progress), repo_cache=folder)
    return Path(context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve())


class JarStore:
    """The jars in the cache."""

    def __init__(self, cache: Path, jars: Sequence[Jar] | None = None, fetch: Fetch = fetch_with_jgo) -> None:
        self.folder = cache / f"kafka-{KAFKA_VERSION}"
        self.jars = wanted() if jars is None else tuple(jars)
        self._fetch = fetch

    @property
    def paths(self) -> list[Path]:
        return [self.folder / jar.file_name for jar in self.jars]

    @property
    def digest(self) -> str:
        """What tells this set of jars from another."""
        return hashlib.sha256("".join(jar.sha256 for jar in self.jars).encode()).hexdigest()

    def missing(self) -> list[Jar]:
        """The jars that are not there, or not as they should be.

        Cost: reads all 43 MB, a tenth of a second.
        """
        return [jar for jar in self.jars if not jar.is_in(self.folder / jar.file_name)]

    def provide(self, interrupt: Interrupt, on_progress: OnProgress) -> list[Path]:
        """Fetch what is missing and return all jars.

        Raises:
            ServiceError: A jar could not be had; nothing of it is left.
            KeyboardInterrupt: A signal came in; the same.
        """
        if not self.missing():
            return self.paths
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive(self.folder / "lock", interrupt):
                self._provide(interrupt, on_progress)
        return self.paths

    def _provide(self, interrupt: Interrupt, on_progress: OnProgress) -> None:
        for stale in self.folder.glob("fetch-*"):  # whoever made it held the lock that we hold
            shutil.rmtree(stale, ignore_errors=True)
        if missing := self.missing():  # another process may have fetched them while we waited for the lock
            stage = Path(tempfile.mkdtemp(prefix="fetch-", dir=self.folder))
            try:
                _Crew(self._fetch, stage, self.folder, missing).work(interrupt, on_progress)
            finally:
                shutil.rmtree(stage, ignore_errors=True)


@dataclass
class _Crew:
    """Threads that fetch jars. They are daemons, so that one that waits for a silent host holds nobody up."""

    fetch: Fetch
    stage: Path
    folder: Path
    missing: Sequence[Jar]
    stop: bool = False
    failures: list[Exception] = field(default_factory=list)
    done: list[Jar] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # append and len are atomic, += on a number is not

    def work(self, interrupt: Interrupt, on_progress: OnProgress) -> None:
        jars: queue.SimpleQueue[Jar] = queue.SimpleQueue()
        for jar in self.missing:
            jars.put(jar)
        threads = [threading.Thread(target=self._drain, args=(jars,), daemon=True) for _ in range(PARALLEL)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and not self.failures:
                interrupt.check()
                on_progress(len(self.done), len(self.missing), sum(self.sizes))
                time.sleep(POLL_S)
        finally:
            self.stop = True
            deadline_mono = time.monotonic() + LEAVE_S
            for thread in threads:
                thread.join(max(0.0, deadline_mono - time.monotonic()))
        if self.failures:
            raise self.failures[0]
        on_progress(len(self.done), len(self.missing), sum(self.sizes))

    def _drain(self, jars: "queue.SimpleQueue[Jar]") -> None:
        with suppress(Stopped, queue.Empty):
            while True:
                jar = jars.get_nowait()
                try:
                    self._fetch_twice(jar)
                except (ServiceError, OSError) as error:
                    self.failures.append(error)
                    raise Stopped from error
                self.done.append(jar)

    def _fetch_twice(self, jar: Jar) -> None:
        """A cut or changed download is not rare enough to give up at the first."""
        problem = self._fetch_once(jar)
        if problem:
            problem = self._fetch_once(jar)
        if problem:
            raise ServiceError(
                f"{jar.file_name} of Kafka could not be fetched: {problem}. It was tried twice and nothing of it is "
                "kept. The first start needs the network; check the connection and the proxy, then run this again"
            )

    def _fetch_once(self, jar: Jar) -> str:
        """Fetch, check, move into place; the problem in words if there was one."""
        with tempfile.TemporaryDirectory(dir=self.stage, ignore_cleanup_errors=True) as folder:
            try:
                path = self.fetch(jar, Path(folder), self._received)
            except (ServiceError, Stopped):
                raise
            except OSError as error:  # the HTTP client's errors are OSErrors too
                if error.errno == errno.ENOSPC:
                    raise
                return _in_words(error)
            except Exception as error:  # whatever a client library raises for "not there"
                return str(error)[:200]
            if not jar.is_in(path):
                return "its SHA-256 is not the one this project keeps"
            path.replace(self.folder / jar.file_name)
            return ""

    def _received(self, size_bytes: int) -> None:
        if self.stop:
            raise Stopped
        self.sizes.append(size_bytes)


def _in_words(error: OSError) -> str:
    """What went wrong on the way. The client's own text is long and names hosts."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return "there is no connection" if "ConnectionError" in kinds else f"the download broke off ({kinds[0]})"


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Say what to do about a folder that cannot be written.

    Raises:
        ServiceError: In place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ServiceError(f"no space left in {folder}; make room and run this again") from error
        raise ServiceError(f"{folder} cannot be used: {error}") from error
