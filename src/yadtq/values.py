"""Python values to JSON and back, by annotations.

One invariant: what `check_arrival` lets pass reaches the code as what it was: nothing that JSON has no word for arrives
as a text or as null. The one exception are structures and enums that no annotation names: they arrive as the plain
lists, objects and values that JSON has for them.

Pydantic is not imported: a model is known by its two methods.
"""

import datetime as dt
import decimal
import enum
import math
import typing
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec

BYTES = (bytes, bytearray, memoryview)  # JSON has them as base64, which is a text like any other
KEPT = (*BYTES, dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal)  # JSON has them as text


def encode(value: object) -> bytes:
    """Write a value as JSON."""
    return msgspec.json.encode(value, enc_hook=_to_json)


def convert(value: object, hint: Any) -> Any:
    """Read what came as JSON as the type that the annotation names."""
    return msgspec.convert(value, hint, str_keys=True, dec_hook=from_json)


def from_json(kind: type, value: object) -> object:
    """Read a type that msgspec does not know."""
    # As JSON: a strict model takes a date from JSON's text and from no other.
    validate = getattr(kind, "model_validate_json", None)
    if validate is None:
        if isinstance(value, kind):
            return value
        raise TypeError(f"type {kind.__name__!r} cannot be read from JSON")
    return validate(msgspec.json.encode(value))


def is_json(value: object, data: bytes) -> bool:
    """Whether a value comes back equal from its JSON: nearly always, and then only its types are left to check."""
    try:
        return bool(msgspec.json.decode(data) == value)
    except Exception:  # an `__eq__` of the user's that takes only its own kind; no JSON
        return False


def names_bytes(hint: Any) -> bool:
    """Whether a text would be read as base64 somewhere in this annotation."""
    return hint in BYTES or any(map(names_bytes, typing.get_args(hint)))


def check_arrival(value: object, hint: Any) -> None:
    """Check that a value reaches the code as what it is. It costs several times what `encode` and `convert` cost.

    Raises:
        ValueError, TypeError: It does not: the annotation names another type, or JSON has no word for it.
    """
    kept = value if isinstance(value, enum.Enum) else _plain(value)
    if any(isinstance(leaf, float) and not math.isfinite(leaf) for leaf in _leaves(kept)):
        raise ValueError("JSON has no nan and no infinity; it would arrive as None")
    given = msgspec.convert(kept, hint, builtin_types=BYTES, str_keys=True, dec_hook=from_json)
    arrived = convert(msgspec.json.decode(encode(value)), hint)
    for before, after in zip(_leaves(_plain(given)), _leaves(_plain(arrived)), strict=False):
        if type(before) is not type(after) and before != after:
            raise ValueError(
                f"{type(before).__name__} would arrive as {type(after).__name__}, because no annotation says what "
                "it is; annotate it, or submit what it shall arrive as"
            )


def _plain(value: object) -> object:
    """A value as JSON sees it, but for what JSON has no word for."""
    return msgspec.to_builtins(value, builtin_types=KEPT, enc_hook=_to_json)


def _leaves(plain: object) -> Iterator[object]:
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield key
            yield from _leaves(value)
    elif isinstance(plain, list | tuple):
        for value in plain:
            yield from _leaves(value)
    else:
        yield plain


def _to_json(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"type {type(value).__name__!r} cannot be written as JSON")
    return dump(mode="json", by_alias=True, round_trip=True)
