"""What `yadtq worker` says about its runners reaches them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from runner_app import app
from runner_bench import Bench, lease, staged
from typer.testing import CliRunner

from waiting import eventually
from yadtq.attempt import Ending
from yadtq.catalogue import Catalogue
from yadtq.cli.worker import Sizes, register, start_pool
from yadtq.errors import SettingsError
from yadtq.telemetry import Telemetry


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    before = signal.getsignal(signal.SIGHUP)
    with staged(tmp_path, monkeypatch) as bench:
        yield bench
    signal.signal(signal.SIGHUP, before)


def test_the_caps_of_the_command_line_replace_runners_and_are_told(bench: Bench) -> None:
    telemetry = Telemetry()
    known = Catalogue()
    pool = start_pool(
        "runner_app:app", app, Sizes(1, 1, max_tasks=5, max_memory_mb=0, solo=1), bench.sink, telemetry, known
    )
    pool.renew(lease())
    try:
        for _ in range(12):
            assert bench.run(pool, bench.attempt("nothing")).ending is Ending.RETURNED
        eventually(lambda: telemetry.counts["runner_replaced"] >= 1)
        eventually(lambda: known.names == app.registry.names)
    finally:
        pool.kill()


def test_sighup_replaces_the_runners_and_the_end_of_that_is_told(bench: Bench) -> None:
    telemetry = Telemetry()
    pool = start_pool("runner_app:app", app, Sizes(1, 1, 0, 0, solo=1), bench.sink, telemetry, Catalogue())
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: telemetry.counts["reloaded"] == 1, 30)
        assert telemetry.counts["runner_started"] >= 2
    finally:
        pool.kill()


@pytest.mark.parametrize("flag", ["--max-tasks", "--max-memory-mb", "--solo"])
def test_a_cap_without_runners_is_refused(flag: str) -> None:
    command = typer.Typer()
    register(command)
    shown = CliRunner().invoke(command, ["runner_app:app", "--runners", "0", flag, "5"])
    assert isinstance(shown.exception, SettingsError)
    assert "--runners 1 or more" in str(shown.exception)
