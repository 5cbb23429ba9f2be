"""Python imports this by itself where its folder is on PYTHONPATH: the process writes down what user code it runs.

One line a start and one an end, appended to the file that WITNESS names, outside Kafka and Redis:
`start <task id> <attempt> <pid> <epoch ms>` and `end ...` likewise; a run that died has no end.

Two faults can be put into a process from outside, by a file: what WALL_CLOCK holds is added, in seconds, to the wall
clock of this process, and while WEDGED is there the engine of this process does not move.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

_time, _time_ns = time.time, time.time_ns

if "WITNESS" in os.environ:
    from yadtq.runners import execution, inline  # a child process takes its functions from execution later

    _file = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    _execute, _execute_async = execution.execute, execution.execute_async

    def _note(what: str, attempt: Any) -> None:
        line = f"{what} {attempt.task_id} {attempt.attempt} {os.getpid()} {_time_ns() // 1_000_000}\n"
        os.write(_file, line.encode())  # one write, so that lines of several processes do not mix

    def _seen(task: Any, attempt: Any, *rest: Any) -> Any:
        _note("start", attempt)
        outcome = _execute(task, attempt, *rest)
        _note("end", attempt)
        return outcome

    async def _seen_async(task: Any, attempt: Any, *rest: Any) -> Any:
        _note("start", attempt)
        outcome = await _execute_async(task, attempt, *rest)
        _note("end", attempt)
        return outcome

    for module in (execution, inline):
        vars(module).update(execute=_seen, execute_async=_seen_async)

if "WALL_CLOCK" in os.environ:
    _clock = Path(os.environ["WALL_CLOCK"])

    def _ahead_ns() -> int:
        return int(_clock.read_text() or "0") * 1_000_000_000

    time.time_ns = lambda: _time_ns() + _ahead_ns()
    time.time = lambda: _time() + _ahead_ns() / 1e9

if "WEDGED" in os.environ and "yadtq.runners.child" not in sys.orig_argv:
    from yadtq.engine import Engine
    from yadtq.inbox import Inbox

    _wedged, _gather = Path(os.environ["WEDGED"]), Engine._gather

    def _wedge(self: Engine, wait_s: float) -> list[Inbox]:
        while _wedged.exists():
            time.sleep(0.05)
        return _gather(self, wait_s)

    Engine._gather = _wedge  # type: ignore[method-assign]
