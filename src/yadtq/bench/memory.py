"""How much memory a process and all that it started hold, shared pages divided among those who share them (PSS)."""

from pathlib import Path

import psutil

from yadtq.dev import minder

SUPPORTED = Path("/proc/self/smaps_rollup").exists()
MIB = 1024


def pss_mib(pid: int) -> float:
    """The PSS of a process and its descendants; a process that ends meanwhile holds nothing."""
    main = psutil.Process(pid)
    family = [main, *main.children(recursive=True)]
    return sum(_kib(one.pid) for one in family if not _is_watcher(one)) / MIB


def _is_watcher(process: psutil.Process) -> bool:
    """What ends the process with the bench is the bench's own."""
    try:
        return minder.__file__ in process.cmdline()
    except psutil.NoSuchProcess:
        return True


def _kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
