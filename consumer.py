"""Execute tasks until it fails on purpose: python3 consumer.py <consumer name> <topic>"""

import sys

import use_venv  # noqa: F401

from yadtq.classic.console import run
from yadtq.classic.consumer import main

if __name__ == "__main__":
    sys.exit(run(main))
