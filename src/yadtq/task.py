"""A task: a function with a name, its signature as the contract for its arguments, and how to submit it.

One invariant: what `pack` accepted, `unpack` accepts in another process, because both check against the same signature
and only JSON lies between them.

JSON carries numbers, strings, lists and objects; dataclasses, enums, dates, UUIDs, msgspec structs and pydantic models
are written and read by their annotations (`values.py`).
"""

import copy
import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeVar

import msgspec

from yadtq import values
from yadtq.errors import InvalidArguments, InvalidOptions, InvalidResult, InvalidTask
from yadtq.handle import Handle
from yadtq.retry import DEFAULT, RetryPolicy
from yadtq.when import read_at, read_delay

P = ParamSpec("P")
R = TypeVar("R")
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a task is published."""

    queue: str
    key: str | None = None  # tasks with the same key go to the same partition
    max_attempts: int = 3  # failures of the code that end the task
    task_id: str | None = None  # one id runs once; made up where left out
    delay_s: float | None = None  # from the submit on: it starts no earlier
    at_ms: int | None = None  # epoch ms: it starts no earlier


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How every run of a task is confined, by its definition."""

    isolation: Literal["process"] | None = None  # process: no other task runs in the process that runs it
    time_limit_s: float | None = None  # after this the process is killed

    @property
    def solo(self) -> bool:
        """It runs alone: only so it can be killed alone."""
        return self.isolation is not None or self.time_limit_s is not None


FREE = Limits()


class Call(msgspec.Struct, frozen=True):
    """One task to publish: packed arguments and options."""

    task_type: str
    args: bytes
    kwargs: bytes
    options: Options
    tries: int = 0  # attempts already made elsewhere


class Outlet(Protocol):
    """Where calls are published."""

    def publish(self, calls: Sequence[Call], read: Callable[[bytes], R]) -> list[Handle[R]]: ...

    async def publish_async(self, calls: Sequence[Call], read: Callable[[bytes], R]) -> list[Handle[R]]: ...


class Task(Generic[P, R]):
    """A registered function. Call it to run it here; `submit` it to run it on a worker."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        options: Options,
        outlet: Outlet,
        limits: Limits = FREE,
        retry: RetryPolicy = DEFAULT,
    ) -> None:
        _check(options)
        if limits.isolation not in (None, "process"):
            raise InvalidTask(f"the isolation of task {name!r} is 'process' or left out, not {limits.isolation!r}")
        if limits.time_limit_s is not None and not 0 < limits.time_limit_s < math.inf:
            raise InvalidTask(f"the time limit of task {name!r} is more than 0 s, not {limits.time_limit_s!r}")
        self.function = function
        self.name = name
        self.options = options
        self.limits = limits
        self.retry = retry
        self.is_async = inspect.iscoroutinefunction(function)
        self._outlet = outlet
        self._signature = inspect.signature(function)
        self._hints = _hints(function, name)
        self._plain = _plain(self._signature)
        self._names_bytes = any(map(values.names_bytes, self._hints.values()))
        self.__doc__ = function.__doc__

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, as if it were no task."""
        return typing.cast("R", self.function(*args, **kwargs))

    def using(
        self,
        *,
        queue: str | None = None,
        key: str | None = None,
        max_attempts: int | None = None,
        task_id: str | None = None,
        delay_s: float | None = None,
        at: datetime | float | None = None,
    ) -> "Task[P, R]":
        """Return this task with other options, for the submits that follow.

        Args:
            queue: Where it is published.
            key: Tasks with the same key go to the same partition, in the order in which they were submitted. They run
                in that order only where the queue's workers keep it (`--order partition`).
            max_attempts: How many failures of the code end it; at least 1.
            task_id: The id, for one submit; one id runs once, however often it is submitted.
            delay_s: It starts so many seconds after the submit, or later; at most 366 days. 0 takes a delay back.
            at: It starts at this time or later: a datetime with a time zone, or seconds since 1970. What has passed
                starts at once. Which time it is says Redis's clock where it fires, the submitter's clock at the submit.

        Raises:
            InvalidTask: `max_attempts` is out of range.
            InvalidOptions: `delay_s` or `at` is no such time, or both are given; or a name, key or id is no text.
        """
        old = self.options
        self._check_texts(queue=queue, key=key, task_id=task_id)
        delay_s, at_ms = self._start(delay_s, at)
        other = copy.copy(self)  # not a new one: that would read the annotations again, at every submit
        other.options = Options(
            queue=queue or old.queue,
            key=old.key if key is None else key,
            max_attempts=old.max_attempts if max_attempts is None else max_attempts,
            task_id=old.task_id if task_id is None else task_id,
            delay_s=delay_s,
            at_ms=at_ms,
        )
        _check(other.options)
        return other

    def _check_texts(self, **texts: object) -> None:
        for name, text in texts.items():
            if text is None:
                continue
            if not isinstance(text, str):
                raise InvalidOptions(self.name, f"{name} is a str, not {text!r}")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidOptions(self.name, f"{name} is no text: {error}") from error

    def _start(self, delay_s: float | None, at: datetime | float | None) -> tuple[float | None, int | None]:
        """The chosen start, or the one chosen before."""
        try:
            if delay_s is not None and at is not None:
                raise ValueError("either delay_s or at says when it starts, not both")
            if delay_s is not None:
                return read_delay(delay_s), None
            return (None, read_at(at)) if at is not None else (self.options.delay_s, self.options.at_ms)
        except ValueError as error:
            raise InvalidOptions(self.name, str(error)) from error

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Publish one call and return when Kafka has it.

        Raises:
            InvalidArguments: They do not fit the signature. Nothing was published.
            InvalidOptions: The id, the key or the start cannot be used. Nothing was published.
            TooLarge: Over the size limit. Nothing was published.
            SubmitUnknown: Kafka gave no report in time. Submit again under the error's `task_id`.

        Cost: one round trip to Kafka and one to Redis; about 1 ms on one machine.
        """
        return self._outlet.publish([self._call(args, kwargs)], self.read_result)[0]

    async def submit_async(self, /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Publish like `submit` without blocking the event loop that awaits it."""
        return (await self._outlet.publish_async([self._call(args, kwargs)], self.read_result))[0]

    def submit_many(self, calls: Iterable[Sequence[Any]]) -> list[Handle[R]]:
        """Publish many calls at once; return one handle a call, in order, when Kafka has all of them.

        Args:
            calls: The positional arguments of each call.

        Raises:
            InvalidArguments, InvalidOptions, TooLarge: One call is wrong. Nothing was published.
            SubmitUnknown: Kafka gave no report for at least one of them in time.
        """
        return self._outlet.publish([self._call(tuple(args), {}) for args in calls], self.read_result)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        packed = self._write(args, kwargs)
        plain = values.is_json(list(args), packed[0]) and (not kwargs or values.is_json(kwargs, packed[1]))
        if self._names_bytes or not plain:
            self._check_arrival(args, kwargs)
        self.unpack(*packed)
        return Call(self.name, *packed, self.options)

    def _check_arrival(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            given = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidArguments(self.name, str(error)) from error
        for name, value in given.items():
            try:
                values.check_arrival(value, self._hint(name))
            except Exception as error:  # validators are user code: anything can come out of them
                raise InvalidArguments(self.name, f"{name}: {error}") from error

    def pack(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """Check what came as JSON against the signature and write it as a JSON array and a JSON object.

        Raises:
            InvalidArguments: They do not fit, or are not JSON.
        """
        packed = self._write(args, kwargs)
        self.unpack(*packed)
        return packed

    def _write(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bytes, bytes]:
        try:
            return values.encode(list(args)), values.encode(dict(kwargs))
        except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise InvalidArguments(self.name, str(error)) from error

    def unpack(self, args: bytes, kwargs: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Read arguments and convert each to the type that its parameter names.

        Raises:
            InvalidArguments: They do not fit the signature.
        """
        try:
            positional, named = msgspec.json.decode(args), msgspec.json.decode(kwargs)
            plain = named == {} and len(positional) in self._plain  # nothing that `bind` could say, at 3 us less
            bound = None if plain else self._signature.bind(*positional, **named)
        except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise InvalidArguments(self.name, str(error)) from error
        if bound is None:
            found = zip(self._signature.parameters, positional, strict=False)  # what is left out has a default
            return tuple([self._convert(name, value) for name, value in found]), {}
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._convert(name, value)
        return bound.args, bound.kwargs

    def _hint(self, name: str) -> Any:
        """The type of what is bound to a parameter."""
        hint: Any = self._hints.get(name, Any)
        kind = self._signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            return tuple[hint, ...]
        return dict[str, hint] if kind is inspect.Parameter.VAR_KEYWORD else hint

    def _convert(self, name: str, value: Any) -> Any:
        try:
            return values.convert(value, self._hint(name))
        except Exception as error:  # validators are user code: anything can come out of them
            raise InvalidArguments(self.name, f"{name}: {error}") from error

    def write_result(self, result: object, limit_bytes: int) -> bytes:
        """Write a result as JSON.

        Raises:
            InvalidResult: It is not JSON, or larger than `limit_bytes`.
        """
        try:
            data = values.encode(result)
        except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise InvalidResult(self.name, str(error)) from error
        if len(data) > limit_bytes:
            problem = f"{len(data):,} bytes and the limit is {limit_bytes:,}; store it elsewhere and return a reference"
            raise InvalidResult(self.name, problem)
        return data

    def read_result(self, data: bytes) -> R:
        """Read a result and convert it to the type that the signature names.

        Raises:
            InvalidResult: It is of another type.
        """
        try:
            return typing.cast("R", values.convert(msgspec.json.decode(data), self._hints.get("return", Any)))
        except Exception as error:  # validators are user code: anything can come out of them
            raise InvalidResult(self.name, str(error)) from error

    @property
    def parameters(self) -> list["Parameter"]:
        """The signature, as a form shows it."""
        return [
            Parameter(
                name,
                inspect.formatannotation(parameter.annotation) if name in self._hints else "any",
                parameter.default is inspect.Parameter.empty
                and parameter.kind in (*POSITIONAL, parameter.KEYWORD_ONLY),
                None if parameter.default is inspect.Parameter.empty else parameter.default,
                parameter.kind in POSITIONAL,
            )
            for name, parameter in self._signature.parameters.items()
        ]

    def __repr__(self) -> str:
        return f"Task({self.name!r})"


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a task."""

    name: str
    type: str  # the annotation as written
    required: bool
    default: object  # None where there is none
    positional: bool


class Registry:
    """The tasks that a worker knows, by name. Only what is registered can run; a name is never imported."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}

    def add(self, task: Task[..., Any]) -> None:
        """Register a task.

        Raises:
            InvalidTask: Another function has this name.
        """
        if task.name in self._tasks:
            raise InvalidTask(f"two tasks are named {task.name!r}; give one of them another name: @app.task(name=...)")
        self._tasks[task.name] = task

    def get(self, name: str) -> Task[..., Any] | None:
        return self._tasks.get(name)

    def is_solo(self, name: str) -> bool:
        """Whether this task runs alone, by its definition."""
        task = self._tasks.get(name)
        return task is not None and task.limits.solo

    @property
    def solo(self) -> list[str]:
        """The names of those that run alone."""
        return [name for name in self.names if self.is_solo(name)]

    @property
    def names(self) -> list[str]:
        return sorted(self._tasks)

    @property
    def tasks(self) -> "list[Task[..., Any]]":
        """All of them, by name."""
        return [self._tasks[name] for name in self.names]


def _check(options: Options) -> None:
    if not 1 <= options.max_attempts <= 2**31:
        raise InvalidTask(f"max_attempts is from 1 to 2147483648, not {options.max_attempts}")


def _plain(signature: inspect.Signature) -> range:
    """How many arguments it takes when they come by position alone and each has a parameter of its own."""
    parameters = signature.parameters.values()
    if any(parameter.kind not in POSITIONAL for parameter in parameters):
        return range(0)
    return range(sum(each.default is each.empty for each in parameters), len(parameters) + 1)


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        for hint in hints.values():
            if hint is not Any:
                msgspec.json.Decoder(hint, dec_hook=values.from_json)
    except Exception as error:  # annotations are user code: anything can come out of them
        raise InvalidTask(f"the annotations of task {name!r} cannot be used: {error}") from error
    return hints
