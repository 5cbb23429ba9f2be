"""The body of a request, read within a limit.

One invariant: no more than the limit is ever held, whatever Content-Length says.
"""

from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from fastapi import HTTPException, Request

LIMIT_BYTES = 1024 * 1024

T = TypeVar("T")


async def read_body(request: Request, media_type: str) -> bytes:
    """Return the body.

    Raises:
        HTTPException: 413 above the limit, 415 for another media type.
    """
    # A form of another site can send only three media types unasked; JSON is none of them.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != media_type:
        raise HTTPException(415, f"the body has to be {media_type}; say so in Content-Type")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LIMIT_BYTES:
            raise HTTPException(413, f"the body is over {LIMIT_BYTES:,} bytes")
    return bytes(data)


def read_json(body: bytes, decoder: msgspec.json.Decoder[T], problem: str) -> T:
    """Return what a body of JSON says.

    Raises:
        HTTPException: 422, with the problem, where it says nothing of the kind.
    """
    try:
        return decoder.decode(body)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise HTTPException(422, f"{problem}: {error}") from error


async def read_fields(request: Request) -> dict[str, str]:
    """Return the fields of a form; of several with one name the last."""
    body = await read_body(request, "application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=1_000)
    except ValueError as error:
        raise HTTPException(400, "the body is not a form") from error
    return {name: value.replace("\r\n", "\n") for name, value in pairs}
