"""Events and who hears them."""

import logging
import time

import pytest

from yadtq.errors import LedgerFull, LedgerUnavailable
from yadtq.telemetry import EVENTS, Event, Telemetry


def test_every_listener_hears_every_event_in_order() -> None:
    telemetry, heard, also = Telemetry(), list[Event](), list[Event]()
    telemetry.listen(heard.append)
    telemetry.listen(also.append)
    events = [Event("started", task_id="a"), Event("succeeded", task_id="a")]
    for event in events:
        telemetry.tell(event)
    assert heard == also == events
    assert telemetry.counts == {"started": 1, "succeeded": 1}


def test_an_event_that_is_not_in_the_table_is_an_error() -> None:
    telemetry, heard = Telemetry(), list[Event]()
    telemetry.listen(heard.append)
    with pytest.raises(KeyError, match="table of events"):
        telemetry.tell(Event("hapened"))
    assert (heard, telemetry.counts) == ([], {})


def test_a_broken_listener_stops_nobody_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    telemetry, heard = Telemetry(), list[Event]()
    telemetry.listen(lambda _: 1 / 0)  # type: ignore[arg-type]
    telemetry.listen(heard.append)
    with caplog.at_level(logging.ERROR, "yadtq"):
        telemetry.tell(Event("started"))
    assert heard == [Event("started")]
    assert "a listener failed on started" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_store_that_answers_some_and_not_others_is_told_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry, heard, now = Telemetry(), list[str](), [1.0]
    telemetry.listen(lambda event: heard.append(event.kind))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(40):
        telemetry.failed("Kafka", "one of its brokers is gone")
        assert telemetry.problems == ["Kafka does not answer"]
        telemetry.answered("Kafka")
        assert telemetry.problems == []
        now[0] += 0.5
    assert heard == ["unavailable", "available"] * 4


def test_a_store_that_is_full_is_so_until_it_takes_something_new(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry, heard, now = Telemetry(), list[str](), [1.0]
    telemetry.listen(lambda event: heard.append(event.kind))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(40):  # it takes the beats and refuses the claims, twice a second, for 20 s
        telemetry.failed("Redis", LedgerFull("full"))
        telemetry.answered("Redis")
        assert telemetry.problems == ["Redis is full"]
        now[0] += 0.5
    telemetry.answered("Redis", took=True)
    assert telemetry.problems == []
    assert heard == ["unavailable"] * 4 + ["available"]
    telemetry.failed("Redis", LedgerUnavailable("gone"))
    assert telemetry.problems == ["Redis does not answer"]
    telemetry.answered("Redis")
    assert telemetry.problems == []


def test_a_store_that_goes_on_failing_is_told_again_and_its_return_once(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry, heard, now = Telemetry(), list[str](), [1.0]
    telemetry.listen(lambda event: heard.append(event.kind))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(22):
        telemetry.failed("Kafka", "gone")
        now[0] += 0.5
    telemetry.answered("Kafka")
    telemetry.answered("Kafka")
    assert heard == ["unavailable"] * 3 + ["available"]


def test_every_event_says_in_words_what_it_means() -> None:
    assert all(" " in text for text in EVENTS.values())
