"""When a task may start at the earliest, as its caller says it.

One invariant: what passes here is a finite time that was meant: no naive datetime is taken for UTC or for local time,
and milliseconds are not taken for seconds.
"""

import math
from datetime import datetime

LONGEST_S = 366 * 86_400


def read_delay(delay_s: object) -> float:
    """Return a delay in seconds. Raises ValueError where it is none."""
    if isinstance(delay_s, bool) or not isinstance(delay_s, int | float) or not math.isfinite(delay_s):
        raise ValueError(f"delay_s is a number of seconds, not {delay_s!r}")
    if not 0 <= delay_s <= LONGEST_S:
        raise ValueError(f"delay_s is from 0 to {LONGEST_S} (366 days), not {delay_s:g}")
    return delay_s


def read_at(at: object) -> int:
    """Return a time in epoch ms. Raises ValueError where it is none."""
    if isinstance(at, datetime):
        if at.utcoffset() is None:
            raise ValueError(f"at has no time zone: {at.isoformat()}. Say which: datetime(..., tzinfo=timezone.utc)")
        at = at.timestamp()
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at) or at < 0:
        raise ValueError(f"at is a datetime with a time zone or a number of seconds since 1970, not {at!r}")
    return round(at * 1000)


def not_before_ms(delay_s: float | None, at_ms: int | None, now_ms: int) -> int:
    """Return from when a task may start; 0: at once. Raises ValueError where that is too far away."""
    start_ms = at_ms if at_ms is not None else now_ms + round((delay_s or 0.0) * 1000)
    if start_ms - now_ms > LONGEST_S * 1000:
        days = (start_ms - now_ms) / 86_400_000
        raise ValueError(f"at is {days:,.0f} days away, and 366 are the most; it is in seconds, not in ms")
    return start_ms if start_ms > now_ms else 0
