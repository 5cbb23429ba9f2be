"""A wrong argument is an error in the editor: `front_door.py` says what mypy has to say on which of its lines."""

import re
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("front_door.py")


def expected() -> dict[int, str]:
    """The code of the error that a line is marked with; every other line has none."""
    lines = enumerate(FILE.read_text().splitlines(), 1)
    return {number: line.partition("  # error: ")[2] for number, line in lines if "  # error: " in line}


def said_by_mypy() -> dict[int, str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", "/dev/null", str(FILE)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FILE.parents[2])
    errors = re.findall(r"^\S+front_door\.py:(\d+): error: .+\[([a-z-]+)\]$", shown.stdout, re.MULTILINE)
    assert errors, shown.stdout + shown.stderr
    return {int(line): code for line, code in errors}


def test_the_types_of_tasks_handles_and_results_are_known_and_wrong_calls_are_errors() -> None:
    assert said_by_mypy() == expected()
