"""Stages for the dramas: one on the services that all share, one on services that a drama may kill."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from drama import Stage

from yadtq.dev.services import Services


@pytest.fixture
def stage(kafka_address: str, redis_url: str, prefix: str, tmp_path: Path) -> Iterator[Stage]:
    """A queue of its own on the session's services, and an end for everybody who comes on."""
    with Stage(kafka_address, redis_url, prefix, tmp_path) as stage:
        yield stage


@pytest.fixture(scope="session")
def kept_services() -> Iterator[list[Services]]:
    """What one drama handed back for the next; starting a Kafka takes longer than most dramas on it."""
    kept: list[Services] = []
    yield kept
    for services in kept:
        services.down()


@pytest.fixture
def own_services(
    request: pytest.FixtureRequest, kept_services: list[Services], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """A Kafka and a Valkey that a drama may kill, for it alone while it plays. What it sets in them it sets back.

    The next drama gets them where this one passed and both answer: after a failure nobody knows in what state they are.
    """
    services = (
        kept_services.pop()
        if kept_services
        else Services(tmp_path_factory.mktemp("own") / "services", minded=True, usual_ports=False)
    )
    with ExitStack() as ending:
        ending.callback(services.down)
        services.up()
        failures = request.session.testsfailed
        yield services
        passed = request.session.testsfailed == failures
        if passed and {service.state for service in services.status()} == {"running"}:
            ending.pop_all()
            kept_services.append(services)


@pytest.fixture
def fragile_stage(own_services: Services, prefix: str, tmp_path: Path) -> Iterator[Stage]:
    """A queue on services that may be killed."""
    with Stage(own_services.kafka, own_services.redis, prefix, tmp_path) as stage:
        yield stage
