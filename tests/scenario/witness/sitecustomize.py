"""Python imports this by itself where its folder is on PYTHONPATH: the process writes down what user code it runs.

One line a start and one an end, appended to the file that WITNESS names, outside Kafka and Redis:
`start <task id> <attempt> <pid> <epoch ms>` and `end ...` likewise; a run that died has no end.
"""

import os
import time
from typing import Any

if "WITNESS" in os.environ:
    from yadtq.runners import execution, inline  # a child process takes its functions from execution later

    _file = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    _execute, _execute_async = execution.execute, execution.execute_async

    def _note(what: str, attempt: Any) -> None:
        line = f"{what} {attempt.task_id} {attempt.attempt} {os.getpid()} {time.time_ns() // 1_000_000}\n"
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
        module.execute, module.execute_async = _seen, _seen_async
