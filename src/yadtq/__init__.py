"""YADTQ: a distributed task queue on Apache Kafka.

    import yadtq

    app = yadtq.App("hello")

    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    handle = add.submit(1, 2)
    print(handle.result(timeout_s=10))

Importing this loads neither a Kafka nor a Redis client; they come with the first submit.
"""

import sys

from yadtq.app import App
from yadtq.errors import (
    InvalidArguments,
    InvalidOptions,
    NotFound,
    ResultTimeout,
    SubmitError,
    SubmitUnknown,
    TaskFailed,
    TooLarge,
    Unavailable,
    YadtqError,
)
from yadtq.handle import Handle
from yadtq.retry import Reject, Retry, RetryPolicy, Snooze
from yadtq.states import State
from yadtq.task import Task

if sys.platform == "win32":
    raise ImportError("YADTQ runs on Linux and macOS; on Windows use WSL 2")

__all__ = [
    "App",
    "Handle",
    "InvalidArguments",
    "InvalidOptions",
    "NotFound",
    "Reject",
    "ResultTimeout",
    "Retry",
    "RetryPolicy",
    "Snooze",
    "State",
    "SubmitError",
    "SubmitUnknown",
    "Task",
    "TaskFailed",
    "TooLarge",
    "Unavailable",
    "YadtqError",
]
