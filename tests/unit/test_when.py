"""A start is a finite time that was meant."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.when import LONGEST_S, not_before_ms, read_at, read_delay

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    "wrong", [-1, -0.001, LONGEST_S + 1, float("nan"), float("inf"), True, "5", timedelta(seconds=5)]
)
def test_what_is_no_delay_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="delay_s is"):
        read_delay(wrong)


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), False, "tomorrow", None])
def test_what_is_no_time_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="at is a datetime with a time zone"):
        read_at(wrong)


def test_a_datetime_without_a_time_zone_is_refused_and_told_what_to_do() -> None:
    with pytest.raises(ValueError, match="no time zone: 2030-01-01T00:00:00"):
        read_at(datetime(2030, 1, 1))  # noqa: DTZ001


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)), st.integers(-12, 12))  # noqa: DTZ001
def test_every_time_zone_means_the_same_moment(naive: datetime, hours: int) -> None:
    utc = naive.replace(tzinfo=UTC)
    there = utc.astimezone(timezone(timedelta(hours=hours)))
    assert read_at(there) == read_at(utc) == read_at(utc.timestamp())


def test_a_start_is_counted_from_now_and_one_that_has_passed_is_none() -> None:
    assert not_before_ms(1.5, None, NOW_MS) == NOW_MS + 1_500
    assert not_before_ms(None, NOW_MS + 1, NOW_MS) == NOW_MS + 1
    now: list[tuple[float | None, int | None]] = [(None, None), (0, None), (None, NOW_MS), (None, 5)]
    assert [not_before_ms(delay_s, at_ms, NOW_MS) for delay_s, at_ms in now] == [0] * 4


def test_what_is_too_far_away_is_refused() -> None:
    assert not_before_ms(LONGEST_S, None, NOW_MS) == NOW_MS + LONGEST_S * 1000
    with pytest.raises(ValueError, match="days away"):
        not_before_ms(None, NOW_MS * 1000, NOW_MS)
