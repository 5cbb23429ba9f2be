"""A TCP proxy between a worker and a store, which can be slow, and can let nothing through.

One invariant: what comes in goes out in order, however late; what was held while it was closed goes out when it opens.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CHUNK = 65_536


class Proxy:
    """Passes on what comes in at `address`."""

    def __init__(self, target: tuple[str, int], delay_s: Callable[[], float] = lambda: 0.0) -> None:
        self._target = target
        self._delay_s = delay_s  # of what goes to the store; drawn anew for every piece
        self._open = threading.Event()
        self._open.set()
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def cut(self) -> None:
        """From now on nothing gets through; connections stay open, as with a cable that is out."""
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._ended.set()
        self._open.set()
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:  # closed, or the store does not listen
                continue
            self._sockets += [near, far]
            threading.Thread(target=self._pump, args=(near, far, self._delay_s), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, lambda: 0.0), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, delay_s: Callable[[], float]) -> None:
        with contextlib.suppress(OSError):  # one end is closed: so is the other
            while data := source.recv(CHUNK):
                self._ended.wait(delay_s())
                self._open.wait()
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def between(address: str, delay_s: Callable[[], float] = lambda: 0.0) -> Iterator[Proxy]:
    """A proxy to a store at host:port, or at a URL that ends with it."""
    host, port = address.rsplit("//", 1)[-1].split("/")[0].rsplit(":", 1)
    proxy = Proxy((host, int(port)), delay_s)
    try:
        yield proxy
    finally:
        proxy.close()
