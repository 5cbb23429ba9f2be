"""Stand by and never fail: python3 guarantee_consumer.py <consumer name> <topic>"""

import sys

import use_venv  # noqa: F401

from yadtq.classic.console import run
from yadtq.classic.consumer import main_stand_by

if __name__ == "__main__":
    sys.exit(run(main_stand_by))
