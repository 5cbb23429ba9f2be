"""Publish task lines: tail -n +1 -f a_tasks.txt | python3 producer.py <topic> <number of partitions in topic>"""

import sys

import use_venv  # noqa: F401

from yadtq.classic.console import run
from yadtq.classic.producer import main

if __name__ == "__main__":
    sys.exit(run(main))
