"""Run the script that imports this inside `.venv`, where `make setup` put all, if YADTQ is not installed here."""

import importlib.util
import os
import sys
from pathlib import Path

if importlib.util.find_spec("yadtq") is None:
    python = Path(__file__).parent / ".venv" / "bin" / "python"
    if not python.exists():
        sys.exit("YADTQ is not installed here; run `make setup` once")
    os.execv(python, [str(python), *sys.argv])
