"""The task file of the original chain: the form appends a line, `tail -f` and the producer do the rest.

One invariant: a line is whole. It is written by one call in append mode and is on the disk before anybody is told of
its id; a last line that somebody left without its end is ended first. When the process dies there is a line or none.
"""

import os
from pathlib import Path

import msgspec

from yadtq.errors import SubmitError

LOOK_BACK_BYTES = 4 * 1024 * 1024


class Line(msgspec.Struct, frozen=True):
    """One line of the file: what the producer reads."""

    task_id: str
    task_type: str
    task_args: msgspec.Raw
    task_tries: int = 0


class TaskFile:
    """A file of JSON lines that only grows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: Line) -> None:
        """Write a line and wait for the disk.

        Raises:
            SubmitError: The file cannot be written; nothing was.
        """
        data = msgspec.json.encode(line) + b"\n"
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                if os.write(descriptor, _end_of_last_line(descriptor) + data) < len(data):
                    raise SubmitError(f"{self.path} took only a part of the line: is the disk full?")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SubmitError(f"{self.path} cannot be written: {error.strerror}") from error

    def holds(self, task_id: str) -> bool:
        """Say whether one of the last lines has this id: it waits for the producer."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOOK_BACK_BYTES))
                return b'{"task_id":' + msgspec.json.encode(task_id) + b"," in file.read()
        except FileNotFoundError:
            return False


def _end_of_last_line(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return b"" if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n" else b"\n"
