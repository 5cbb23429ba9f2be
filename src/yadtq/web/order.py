"""A task that a form or a JSON body asks for, checked and submitted.

One invariant: only registered tasks are submitted; a name is looked up and never imported.
"""

import asyncio
import difflib
import inspect
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from yadtq.app import App
from yadtq.codec import id_problem
from yadtq.errors import InvalidArguments, InvalidOptions, SubmitError
from yadtq.task import Call, Parameter, Task
from yadtq.web.taskfile import Line, TaskFile

NUMBERS: dict[str, type[int] | type[float]] = {"int": int, "float": float}


class UnknownTask(SubmitError):
    """No task is registered under this name."""

    def __init__(self, task_type: str, known: list[str]) -> None:
        near = difflib.get_close_matches(task_type, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"no task is named {task_type[:100]!r}: {hint}known are {', '.join(known) or 'none'}")


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be submitted. The body of `POST /api/v1/tasks`."""

    task_type: str
    task_args: list[Any] = []
    task_kwargs: dict[str, Any] = {}
    queue: str | None = None
    task_id: str | None = None
    key: str | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None = None
    delay_s: float | None = None


@dataclass(frozen=True, slots=True)
class Submitter:
    """Where orders go: to Kafka, or to the task file where there is one."""

    app: App
    task_file: TaskFile | None

    async def submit(self, order: Order) -> str:
        """Submit and return the task's id, when Kafka or the disk has it.

        Raises:
            UnknownTask: No task has this name.
            InvalidArguments, InvalidOptions, InvalidTask, SettingsError, TooLarge: The order cannot be taken as it is.
            SubmitUnknown, BrokerUnavailable: Kafka does not answer.
        """
        task = self.app.registry.get(order.task_type)
        if task is None:
            raise UnknownTask(order.task_type, self.app.registry.names)
        if order.task_id is not None and (problem := id_problem(order.task_id)):
            raise InvalidOptions(order.task_type, problem)
        if self.task_file is not None:
            return await asyncio.to_thread(self._write, self.task_file, task, order)
        chosen = task.using(
            queue=order.queue,
            key=order.key,
            max_attempts=order.max_attempts,
            task_id=order.task_id,
            delay_s=order.delay_s,
        )
        # Not `submit_async(*args, **kwargs)`: an argument may be named self.
        call = Call(task.name, *task.pack(order.task_args, order.task_kwargs), chosen.options)
        return (await self.app.publish_async([call], task.read_result))[0].task_id

    def _write(self, file: TaskFile, task: Task[..., Any], order: Order) -> str:
        if (order.queue, order.key, order.max_attempts, order.delay_s) != (None, None, None, None):
            raise InvalidOptions(task.name, "the task file has no queue, key, max_attempts or delay_s; leave them away")
        packed, _ = task.pack(_positional(task, order), {})
        task_id = order.task_id or uuid.uuid4().hex
        file.append(Line(task_id, task.name, msgspec.Raw(packed)))
        return task_id


def _positional(task: Task[..., Any], order: Order) -> list[Any]:
    """All arguments by position: a line of the file has no names."""
    args, named = list(order.task_args), dict(order.task_kwargs)
    for parameter in [at for at in task.parameters if at.positional][len(args) :]:
        if not named:
            break
        if parameter.name not in named and parameter.required:
            raise InvalidArguments(task.name, f"{parameter.name} is missing")
        args.append(named.pop(parameter.name, parameter.default))
    if named:
        raise InvalidArguments(task.name, f"the task file takes no arguments by name: {', '.join(named)}")
    return args


def read_form(task: Task[..., Any], form: Mapping[str, str]) -> Order:
    """Make an order of a form's fields; a field that is left empty takes its default.

    Raises:
        InvalidArguments: A field is not of its type.
    """
    args: list[Any] = []
    named: dict[str, Any] = {}
    kinds = inspect.signature(task.function).parameters
    for place, parameter in enumerate(task.parameters):
        given, value = _field(task.name, parameter, form.get(f"arg.{parameter.name}", ""))
        if not given:
            continue
        kind = kinds[parameter.name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL and isinstance(value, list):
            args += value
        elif kind is inspect.Parameter.VAR_KEYWORD and isinstance(value, dict):
            named |= value
        elif parameter.positional and len(args) == place:
            args.append(value)
        else:  # behind the first field that was left out, the rest goes by name
            named[parameter.name] = value
    options = {name: form.get(name) or None for name in ("queue", "key", "task_id")}
    return Order(
        task_type=task.name,
        task_args=args,
        task_kwargs=named,
        queue=options["queue"],
        key=options["key"],
        task_id=options["task_id"],
    )


def type_name(parameter: Parameter) -> str:
    """The annotation as written; one that was written as a text without its quotes."""
    return parameter.type.strip("'\"")


def field_kind(parameter: Parameter) -> str:
    """Say how a parameter is asked for: int, float, bool, str, or json for everything else."""
    name = type_name(parameter)
    return name if name in ("int", "float", "bool", "str") else "json"


def _field(task_type: str, parameter: Parameter, text: str) -> tuple[bool, Any]:
    """Whether a field was filled in, and its value."""
    kind = field_kind(parameter)
    if kind == "str" and (text or parameter.required):
        return True, text
    if not text.strip():
        if parameter.required:
            raise InvalidArguments(task_type, f"{parameter.name} is missing")
        return False, None
    try:
        return True, NUMBERS[kind](text) if kind in NUMBERS else json.loads(text)
    except (ValueError, RecursionError) as error:
        if kind == "json" and re.search(r"\b(str|any)\b", type_name(parameter)):
            return True, text  # `str | int`: what is no JSON is a text, and needs no quotes
        raise InvalidArguments(task_type, f"{parameter.name} is not {_AS[kind]}: {text[:60]!r}") from error


_AS = {"int": "a whole number", "float": "a number", "bool": "true or false", "json": "JSON"}
