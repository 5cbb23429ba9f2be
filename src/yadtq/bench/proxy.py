"""A TCP proxy that adds time to every answer: `python -m yadtq.bench.proxy JSON`, a list of [port, target, added_ms].

One invariant: bytes arrive complete and in order, half of the added time later in each direction, and as many at a time
as came: it adds a distance and takes no bandwidth.
"""

import asyncio
import json
import sys
from collections import deque
from functools import partial

from yadtq.dev.port import HOST

MOST_BYTES = 16 * 1024 * 1024  # on their way; beyond it the sender waits


class Direction(asyncio.Protocol):
    """One side of a connection: what arrives here leaves at the other side, later."""

    def __init__(self, later_s: float) -> None:
        self.other: Direction | None = None
        self.transport: asyncio.Transport | None = None
        self._later_s = later_s
        self._loop = asyncio.get_running_loop()
        self._moving: deque[tuple[float, bytes]] = deque()  # an empty one is the end
        self._bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._send(data)
        self._bytes += len(data)
        if self._bytes > MOST_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        self._send(b"")

    def _send(self, data: bytes) -> None:
        if not self._later_s:
            self._leave(data)
            return
        self._moving.append((self._loop.time() + self._later_s, data))
        if len(self._moving) == 1:
            self._loop.call_at(self._moving[0][0], self._move)

    def _move(self) -> None:
        now = self._loop.time()
        while self._moving and self._moving[0][0] <= now:
            self._leave(self._moving.popleft()[1])
        if self._moving:
            self._loop.call_at(self._moving[0][0], self._move)

    def _leave(self, data: bytes) -> None:
        self._bytes -= len(data)
        if self._bytes <= MOST_BYTES // 2 and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        if self.other is None or self.other.transport is None:
            return
        if data:
            self.other.transport.write(data)
        else:
            self.other.transport.close()


class Near(Direction):
    """The side of a client; the server's side is connected when the client comes."""

    def __init__(self, target: int, later_s: float) -> None:
        super().__init__(later_s)
        self._target = target
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        transport.pause_reading()  # type: ignore[attr-defined]
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        assert self.transport is not None
        try:
            _, far = await asyncio.get_running_loop().create_connection(
                lambda: Direction(self._later_s), HOST, self._target
            )
        except OSError:
            self.transport.close()
            return
        self.other, far.other = far, self
        self.transport.resume_reading()


async def serve(routes: list[tuple[int, int, float]]) -> None:
    loop = asyncio.get_running_loop()
    for port, target, added_ms in routes:
        await loop.create_server(partial(Near, target, added_ms / 2_000), HOST, port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve([(port, target, added_ms) for port, target, added_ms in json.loads(sys.argv[1])]))
