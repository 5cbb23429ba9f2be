"""A quick bench runs every scenario to its end on real services and writes a report that says exact."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from yadtq.bench.run import SCENARIOS

pytestmark = pytest.mark.real


def test_a_quick_bench_measures_everything_and_every_delivery_is_exact(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "yadtq", "bench", "--quick", "--no-peers", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["scenarios"].keys() == SCENARIOS.keys()
    for name, scenario in report["scenarios"].items():
        assert not scenario["problems"], name
        assert scenario["series"] or scenario["notes"], name
    text = (tmp_path / "bench.md").read_text()
    assert "not exact" not in text
    assert "celery is left out: asked for no peers" in text
