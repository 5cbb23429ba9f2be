"""An admin client that knows why it reaches nobody.

One invariant: `topics` waits as long as it may only where an answer can still come; where every connection fails it
raises soon, and `problem` is the reason. Whether to try again is for the caller to say.
"""

import re
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from yadtq.broker.kafka.properties import client_log

FIRST_S = 1.5  # long enough for a name, a connection and an answer; after that a refused connection is no accident
_NOISE = re.compile(r" \((after \d+ms in state|\w* ?\d+ identical error)[^)]*\)")


class Admin:
    """One client. Whose question reached nobody gives it up: what it says of every try would pile up in it unheard."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.problem = ""  # why the last connection failed
        self._all_down = False
        heard: dict[str, Any] = {**config, "error_cb": self._on_error}
        self.client = AdminClient(heard, logger=client_log)

    def topics(self, timeout_s: float) -> ClusterMetadata:
        """Return what the cluster has. Raises KafkaException where it does not answer."""
        self._hear()
        self.problem, self._all_down = "", False  # what was before
        try:
            return self.client.list_topics(timeout=min(FIRST_S, timeout_s))
        except KafkaException:
            self._hear()
            if self._all_down or timeout_s <= FIRST_S:
                raise
            return self.client.list_topics(timeout=timeout_s - FIRST_S)

    def _hear(self) -> None:
        """The client tells its errors in here, on this thread."""
        self.client.poll(0)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._all_down = True
        else:
            self.problem = _NOISE.sub("", error.str())
