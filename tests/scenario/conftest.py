"""Stages for the dramas: one on the services that all share, one on services of its own that may be killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from drama import Stage

from yadtq.dev.services import Services


@pytest.fixture
def stage(kafka_address: str, redis_url: str, prefix: str, tmp_path: Path) -> Iterator[Stage]:
    """A queue of its own on the session's services, and an end for everybody who comes on."""
    with Stage(kafka_address, redis_url, prefix, tmp_path) as stage:
        yield stage


@pytest.fixture
def own_services(tmp_path: Path) -> Iterator[Services]:
    """A Kafka and a Valkey that a drama may kill."""
    with Services.started(tmp_path / "services") as started:
        yield started


@pytest.fixture
def fragile_stage(own_services: Services, prefix: str, tmp_path: Path) -> Iterator[Stage]:
    """A queue on services of its own."""
    with Stage(own_services.kafka, own_services.redis, prefix, tmp_path) as stage:
        yield stage
