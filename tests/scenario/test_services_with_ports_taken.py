"""Where ports are taken, `yadtq up` says so and takes others, and keeps them the next time."""

from pathlib import Path

import pytest
from yadtq_up import addresses, folder, taken

pytestmark = pytest.mark.real


def test_taken_ports_are_named_and_others_are_used_and_kept(tmp_path: Path) -> None:
    with taken(9092, 6379), folder(tmp_path / "work") as work:
        said = work.run("up", "--no-web")
        assert "port 9092 is taken by another program; Kafka uses" in said
        assert "port 6379 is taken by another program; Valkey uses" in said
        first = addresses(said)
        work.run("down")
        again = work.run("up", "--no-web")
        assert "is taken" not in again
        assert addresses(again) == first
