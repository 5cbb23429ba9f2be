"""Templates, and how values become text in them.

One invariant: everything that a template prints is escaped twice over: characters that cannot be seen become escapes
(`finalize`), then HTML is escaped (`autoescape`). Nothing is marked safe but what a template itself wrote.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from yadtq.visible import visible
from yadtq.web.listing import Row

UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def environment() -> Environment:
    """Make the template environment."""
    env = Environment(
        loader=PackageLoader("yadtq.web"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "ago": ago,
        "call": call,
        "duration": duration,
        "iso": iso,
        "last_line": last_line,
        "number": number,
        "path": lambda text: quote(text, safe=""),
        "pretty": pretty,
        "short": short,
    }
    env.filters.update(filters)
    return env


def finalize(value: object) -> object:
    """What a template prints, but for what a template wrote, shows every character."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else visible(value)


def short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def last_line(text: str) -> str:
    return text.strip().rsplit("\n", 1)[-1]


def call(row: Row) -> str:
    """A task as the call that it is: `add(1, 2)`."""
    if row.task_args is None:
        return f"{row.task_type}(…)"
    args, named = _read(row.task_args), _read(row.task_kwargs or "{}")
    parts = [_dump(value) for value in args] if isinstance(args, list) else [row.task_args]
    if isinstance(named, dict):
        parts += [f"{name}={_dump(value)}" for name, value in named.items()]
    return f"{row.task_type}({', '.join(parts)})"


def pretty(text: str) -> str:
    """JSON with a line for each part; the text itself where it cannot be read or would not come out the same."""
    value = _read(text)
    return text if value is None else json.dumps(value, ensure_ascii=False, indent=2)


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _read(text: str) -> object:
    try:
        # A number that Python cannot hold as it is written stays unread, and the text is shown.
        return json.loads(text, parse_float=_exact)
    except (ValueError, RecursionError):
        return None


def _exact(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")) or len(text) > 17:
        raise ValueError(f"{text} is not kept as it is")
    return value


def number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(at_ms: int, now_ms: int | None = None) -> str:
    """How long ago, in the largest unit. The page's script counts on in the same words."""
    age_ms = (time.time_ns() // 1_000_000 if now_ms is None else now_ms) - at_ms
    if age_ms < 1_000:
        return "just now"
    unit_ms, unit = next((size, name) for size, name in UNITS if age_ms >= size)
    return f"{age_ms // unit_ms:,} {unit} ago"


def duration(from_ms: int, to_ms: int) -> str:
    took_ms = max(to_ms - from_ms, 0)
    if took_ms < 1_000:
        return f"{took_ms} ms"
    if took_ms < 60_000:
        return f"{took_ms / 1_000:.1f} s"
    minutes, seconds = divmod(took_ms // 1_000, 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
