"""Kills process groups when its stdin closes: `python -I -S minder.py`, told `+group` and `-group`, one a line.

User code starts processes of its own; when the worker is killed they have no parent that would end them. One invariant:
a group that was told and not taken back does not outlive whoever holds the pipe, whatever ended it.

It runs as a script in a group of its own and imports nothing of the package: it stays small (about 4 MiB).
"""

import os
import signal


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for group in told():
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:  # it has ended already
            continue


def told() -> set[int]:
    """Listen until the pipe closes; return the groups that are left."""
    groups: set[int] = set()
    rest = b""
    while data := os.read(0, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            (groups.add if line.startswith(b"+") else groups.discard)(int(line[1:]))
    return groups


if __name__ == "__main__":
    main()
