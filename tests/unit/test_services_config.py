"""`yadtq config show` tells the truth: what it shows as the winner is what every other command uses."""

import itertools
import json
from pathlib import Path

import pytest

from yadtq import settings
from yadtq.cli import config

SOURCES = ("environment", "toml", "services")


def folder_with(tmp_path: Path, *sources: str) -> dict[str, str]:
    """Set the addresses in some of the sources; the environment is returned."""
    if "toml" in sources:
        (tmp_path / "yadtq.toml").write_text('kafka = "toml:1"\nredis = "toml:2"\n')
    if "services" in sources:
        (tmp_path / ".yadtq").mkdir()
        (tmp_path / ".yadtq/services.json").write_text(json.dumps({"kafka": "up:1", "redis": "redis://up:2"}))
    return {"YADTQ_KAFKA": "env:1", "YADTQ_REDIS": "env:2"} if "environment" in sources else {}


@pytest.mark.parametrize(
    "sources", [chosen for size in range(4) for chosen in itertools.combinations(SOURCES, size)], ids=str
)
def test_the_winner_is_what_commands_use_and_the_others_follow_in_order(
    tmp_path: Path, sources: tuple[str, ...]
) -> None:
    environ = folder_with(tmp_path, *sources)
    found = settings.load(folder=tmp_path, environ=environ)
    kafka, redis = config.rows(tmp_path, environ)[:2]
    assert (kafka.value, kafka.source) == (found.kafka.value, found.kafka.source)
    assert (redis.value, redis.source) == (found.redis.value, found.redis.source)
    hosts = {"environment": "env:1", "toml": "toml:1", "services": "up:1"}
    offered = [hosts[source] for source in SOURCES if source in sources] + ["localhost:9092"]
    assert [value for value, _ in kafka.losers] == offered[1:]


def test_secrets_are_hidden_of_winners_and_losers(tmp_path: Path) -> None:
    (tmp_path / "yadtq.toml").write_text(
        'kafka = "kafka+sasl://user:hunter2@k:1"\nredis = "redis://:hunter2@r:1"\n'
        '[kafka_options]\n"ssl.key.password" = "hunter2"\n"ssl.ca.location" = "/ca.pem"\n'
    )
    environ = {"YADTQ_KAFKA": "kafka+sasl://other:hunter2@k:2?sasl.password=hunter2"}
    shown = str(config.rows(tmp_path, environ))
    assert "hunter2" not in shown
    assert "user:***@k:1" in shown
    assert "ssl.ca.location = /ca.pem" in shown


def test_every_setting_is_shown(tmp_path: Path) -> None:
    names = {row.name for row in config.rows(tmp_path, {})}
    assert names == set(settings.Settings.__dataclass_fields__)


def test_a_prefix_of_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "yadtq.toml").write_text('prefix = "file-"\n')
    rows = {row.name: row for row in config.rows(tmp_path, {"YADTQ_PREFIX": "env-"})}
    assert rows["prefix"].value == "env-"
    assert rows["prefix"].losers == (("file-", "yadtq.toml"),)
