import pytest
from stage import Stage

import yadtq.intake
import yadtq.scheduler


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that finds nothing returns at once: every test says itself what happens next."""
    monkeypatch.setattr(yadtq.intake, "POLL_S", 0.0)
    monkeypatch.setattr(yadtq.scheduler, "POLL_S", 0.0)


@pytest.fixture
def stage() -> Stage:
    return Stage()
