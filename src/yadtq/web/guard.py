"""What every request and every answer has to pass: own host, own origin, and the headers that keep foreign code out.

One invariant: it stands outside of everything else, so an error page and a WebSocket upgrade pass it too.

A server on loopback is still open to every page in the user's browser: the Host check stops names that were made to
point here (DNS rebinding), the Origin check stops forms and scripts of other sites.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    # Not no-referrer: with it the browser sends "Origin: null" with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        problem = _problem(scope)
        if problem is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "http":
            status, detail = problem
            await JSONResponse({"detail": detail}, status)(scope, receive, _with_headers(send))
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})


def _problem(scope: Scope) -> tuple[int, str] | None:
    headers = Headers(scope=scope)
    server = scope.get("server")
    port = server[1] if server else None
    if not _is_own(headers.get("host", ""), port) or len(headers.getlist("host")) != 1:
        return 400, "this server answers to 127.0.0.1, localhost and [::1] with its own port only"
    if scope["type"] == "http" and scope["method"] in SAFE:
        return None
    origin = headers.get("origin")
    if origin is not None and not (origin.startswith("http://") and _is_own(origin.removeprefix("http://"), port)):
        return 403, "the request comes from a page of another site"
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return 403, "the request comes from a page of another site"
    return None


def _is_own(host: str, port: int | None) -> bool:
    try:
        url = urlsplit(f"http://{host}")
        own_port = port is None or (url.port or 80) == port
    except ValueError:
        return False
    return url.netloc == host and "@" not in host and url.hostname in HOSTS and own_port


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return guarded
