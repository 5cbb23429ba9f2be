"""Runs a command that must not outlive its owner: `python minder.py command...`, stdin a pipe that the owner holds.

One invariant: the command keeps the pid that the owner was given, and it is ended when the pipe closes, whatever
closed it. A SIGKILL of the owner is enough: the kernel closes the pipe. (Linux alone could do this with a flag of
`prctl`, but that watches the thread that forked, not the process.)

Needs the standard library only and imports little: it starts before every service of a test run.
"""

import os
import select
import signal
import sys

LOOK_S = 1.0  # how soon a watcher notices that its service ended by itself


def main(command: list[str]) -> None:
    """Leave a watcher behind and become the command."""
    service = os.getpid()
    if os.fork() == 0:
        watch(service)
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execv(command[0], command)


def watch(service: int) -> None:
    """Kill the service once nobody holds the pipe.

    The watcher is the service's child, so `getppid` tells a living service from a stranger with its pid.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.getppid() == service:
        readable, _, _ = select.select([0], [], [], LOOK_S)
        if readable and not os.read(0, 1):
            if os.getppid() == service:
                os.kill(service, signal.SIGKILL)
            return


if __name__ == "__main__":
    main(sys.argv[1:])
