"""Ctrl+C or SIGTERM at any moment of `yadtq up` ends what it started, and the next `up` works."""

import os
import signal
from pathlib import Path

import pytest
from yadtq_up import folder

pytestmark = pytest.mark.real


def test_an_interrupted_start_leaves_nothing_running(tmp_path: Path) -> None:
    with folder(tmp_path / "work") as work:
        for text, number in (
            ("Kafka: formatting", signal.SIGINT),
            ("Kafka: starting", signal.SIGTERM),
            ("Valkey: starting", signal.SIGINT),
        ):
            said = work.interrupt_at(text, "up", "--no-web", number=number)
            assert "Interrupted" in said
            assert work.processes() == []
            assert not (work.path / ".yadtq/services.json").exists()
        work.run("up", "--no-web")
        assert "running" in work.run("status")


def test_an_interrupted_start_leaves_alone_what_ran_before(tmp_path: Path) -> None:
    with folder(tmp_path / "work") as work:
        work.run("up", "--no-web")
        before = work.services
        os.kill(work.pid("kafka"), signal.SIGKILL)
        work.interrupt_at("Kafka: starting", "up", "--no-web")
        assert work.services == {"redis": before["redis"]}
        assert work.run("status").count("running") == 1
