"""One run of user code, from its arguments to its outcome. Whatever the code does, an outcome comes back.

One invariant: nothing that user code raises gets past here, not even SystemExit: in a slot's thread it would end the
slot, and in a bare coroutine the event loop.
"""

import time
import traceback
from typing import Any

from yadtq.attempt import Attempt, Ending, Outcome
from yadtq.errors import InvalidArguments, InvalidResult
from yadtq.retry import DEFAULT, Control, RetryPolicy
from yadtq.task import Task
from yadtq.within import Port, Running, here

ERROR_LOG_CHARS = 32 * 1024


def execute(task: Task[..., Any], attempt: Attempt, limit_bytes: int, port: Port) -> Outcome:
    """Run a plain function here and now. port: Where its submits go."""
    started_at_ms = now_ms()
    token = here.set(Running(attempt, port))
    try:
        args, kwargs = unpacked(task, attempt)
        value = task.function(*args, **kwargs)
        return returned(task, attempt, started_at_ms, value, limit_bytes)
    except BaseException as error:  # user code may raise anything
        return raised(attempt, started_at_ms, error, task.retry)
    finally:
        here.reset(token)


async def execute_async(task: Task[..., Any], attempt: Attempt, limit_bytes: int, port: Port) -> Outcome:
    """Run a coroutine function on the running event loop."""
    started_at_ms = now_ms()
    here.set(Running(attempt, port))  # for this coroutine's own context
    try:
        args, kwargs = unpacked(task, attempt)
        value = await task.function(*args, **kwargs)
        return returned(task, attempt, started_at_ms, value, limit_bytes)
    except BaseException as error:  # user code may raise anything
        return raised(attempt, started_at_ms, error, task.retry)


class Unfit(Exception):
    """The arguments of the attempt itself, not those of a task that it submits."""


def unpacked(task: Task[..., Any], attempt: Attempt) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        return task.unpack(attempt.args, attempt.kwargs)
    except InvalidArguments as error:
        raise Unfit(str(error)) from None


def returned(task: Task[..., Any], attempt: Attempt, started_at_ms: int, value: object, limit_bytes: int) -> Outcome:
    try:
        result = task.write_result(value, limit_bytes)
    except InvalidResult as error:
        log = _readable(str(error))
        return Outcome(attempt.number, Ending.BAD_RESULT, started_at_ms, now_ms(), error_log=log)
    return Outcome(attempt.number, Ending.RETURNED, started_at_ms, now_ms(), result=result)


def raised(attempt: Attempt, started_at_ms: int, error: BaseException, policy: RetryPolicy = DEFAULT) -> Outcome:
    ended = (started_at_ms, now_ms())
    if isinstance(error, Unfit):
        return Outcome(attempt.number, Ending.BAD_ARGUMENTS, *ended, error_log=_readable(str(error)))
    if isinstance(error, Control):
        log = _readable(f"{type(error).__name__}: {error}")
        return Outcome(attempt.number, _ENDINGS[error.wish], *ended, error_log=log, after_s=error.after_s)
    ending = Ending.REJECTED if policy.gives_up(error) else Ending.RAISED
    return Outcome(attempt.number, ending, *ended, error_log=_traceback(error), after_s=policy.wait_s(error))


_ENDINGS = {"retry": Ending.RAISED, "snooze": Ending.SNOOZED, "reject": Ending.REJECTED}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _traceback(error: BaseException) -> str:
    """The traceback from user code on; of a long one the end, where the error is."""
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # an error whose own __str__ raises
        text = f"{type(error).__name__} (its message cannot be shown)"
    text = _readable(text)
    return (
        text
        if len(text) <= ERROR_LOG_CHARS
        else f"... {len(text) - ERROR_LOG_CHARS} characters left out ...\n" + (text[-ERROR_LOG_CHARS:])
    )


def _readable(text: str) -> str:
    """Text as UTF-8 can carry it: messages may hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
