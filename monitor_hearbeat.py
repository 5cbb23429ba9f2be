"""The same as monitor_heartbeat.py, under its original spelling."""

import sys

import use_venv  # noqa: F401

from yadtq.classic.console import run
from yadtq.classic.heartbeats import main

if __name__ == "__main__":
    sys.exit(run(main))
