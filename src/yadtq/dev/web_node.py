"""The web app as a third service beside Kafka and Valkey.

One invariant: it talks to the Kafka and the Valkey that were started with it; when one of them moves, it
is started anew.
"""

import sys
from pathlib import Path

from yadtq.dev import probe
from yadtq.dev.node import Launch, Reporter, tail
from yadtq.dev.port import HOST
from yadtq.dev.process import Interrupt

READY = "/api/v1/queues"


class WebNode:
    """Knows how to start the web app and how to ask it."""

    name = "web"
    title = "Web app"
    usual_port = 8080
    start_s = 30.0
    stop_s = 10.0

    def __init__(self, kafka: str, redis: str, logs: Path) -> None:
        self._environment = {"YADTQ_KAFKA": kafka, "YADTQ_REDIS": redis}
        self.log = logs / "web.log"

    def address(self, number: int) -> str:
        return f"http://{HOST}:{number}"

    def answers(self, number: int, _pid: int) -> bool:
        return probe.http_status(number, READY) == 200

    def last_words(self) -> str:
        return tail(self.log)

    def launch(self, number: int, _reporter: Reporter, _interrupt: Interrupt) -> Launch:
        data = str(self.log.parent.parent)
        command = [sys.executable, "-m", "yadtq", "web", "--port", str(number), "--data", data]
        return Launch(command, "yadtq web", self._environment)

    def stopped(self) -> None:
        """Nothing is left to do."""
