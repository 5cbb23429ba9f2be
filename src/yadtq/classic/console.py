"""What the original command lines share: how they print, and how they are told where Kafka and Redis are."""

import argparse
import os
import sys
import time
from collections.abc import Callable

from yadtq.errors import YadtqError
from yadtq.settings import Settings, load


class Console:
    """Prints one line at a time, with the time and who speaks."""

    def __init__(self, name: str) -> None:
        self.name = name

    def say(self, text: str) -> None:
        """Print a line. One write a line, so that nothing is torn or lost when the process dies."""
        shown = text.encode("utf-8", "backslashreplace").decode()
        safe = "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in shown)
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), f"{time.strftime('%H:%M:%S')} {self.name}: {safe}\n".encode())


def addresses(args: argparse.Namespace) -> Settings:
    """Find the services: options first, then the settings' usual order."""
    return load(kafka=args.kafka, redis=args.redis)


def run(main: Callable[[], int]) -> int:
    """Run a command; an error that YADTQ raises on purpose ends as one line and exit code 1."""
    try:
        return main()
    except YadtqError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        return 1
