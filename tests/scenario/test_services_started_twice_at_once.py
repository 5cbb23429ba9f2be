"""Two `yadtq up` at once in one folder start one Kafka and one Valkey, and both say where they are."""

from pathlib import Path

import pytest
from yadtq_up import addresses, folder

pytestmark = pytest.mark.real


def test_two_starts_at_once_make_one(tmp_path: Path) -> None:
    with folder(tmp_path / "work") as work:
        rivals = [work.begin("up", "--no-web") for _ in range(2)]
        said = [rival.communicate(timeout=60)[0] for rival in rivals]
        assert [rival.returncode for rival in rivals] == [0, 0], said
        assert addresses(said[0]) == addresses(said[1])
        assert sum("Already running" in one for one in said) == 1
        assert sum("kafka.Kafka" in line for line in work.processes()) == 1
