"""Tasks: what their signatures take, and how arguments and results cross to another process."""

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
import zoneinfo
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.app import App
from yadtq.errors import InvalidArguments, InvalidOptions, InvalidResult, InvalidTask
from yadtq.handle import Handle
from yadtq.task import Call, Limits, Options, Parameter, Registry, Task


class Outlet:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def publish(self, calls: Sequence[Call], read: Callable[[bytes], Any]) -> list[Handle[Any]]:
        self.calls += calls
        return [Handle(f"id-{number}", self, read) for number, _ in enumerate(calls)]  # type: ignore[arg-type]


def made(function: Callable[..., Any], **options: Any) -> Task[..., Any]:
    return Task(function, function.__name__, Options(queue="q", **options), Outlet())  # type: ignore[arg-type]


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str] = dataclasses.field(default_factory=list)


class User(pydantic.BaseModel):
    name: str
    born: dt.date
    color: Color = Color.RED
    friend: "User | None" = None


class Aliased(pydantic.BaseModel):
    user_name: str = pydantic.Field(alias="userName")


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    id: uuid.UUID
    at: dt.datetime


class Struct(msgspec.Struct):
    at: dt.datetime
    rest: dict[str, int] = {}


NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
VALUES: list[tuple[Any, Any]] = [
    (int, 2**70),
    (float, 1.5),
    (float, 3),
    (bool, True),
    (str, 'snow ☃ "quoted"\n\x00'),
    (bytes, b"\x00\xff"),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2}),
    (dict[str, list[int]], {"a": [1]}),
    (dict[int, str], {1: "a"}),
    (dict[uuid.UUID, int], {uuid.UUID(int=7): 1}),
    (Literal["a", "b"], "b"),
    (int | None, None),
    (int | str, "a"),
    (dt.datetime, NOON),
    (dt.date, NOON.date()),
    (dt.timedelta, dt.timedelta(seconds=1.5)),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (uuid.UUID, uuid.UUID(int=7)),
    (Color, Color.RED),
    (Level, Level.HIGH),
    (Point, Point(1, ["a"])),
    (Point | None, Point(1)),
    (Struct, Struct(NOON, {"a": 1})),
    (User, User(name="Ä", born=NOON.date(), friend=User(name="B", born=NOON.date()))),
    (User | None, None),
    (list[User], [User(name="Ä", born=NOON.date())]),
    (dict[str, User], {"a": User(name="Ä", born=NOON.date())}),
    (Aliased, Aliased(userName="x")),
    (Strict, Strict(id=uuid.UUID(int=7), at=NOON)),
    (Any, {"a": [1, None, 1.5, "x"]}),
]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=[str(kind) for kind, _ in VALUES])
def test_arguments_and_results_arrive_as_they_were_sent(kind: Any, value: Any) -> None:
    def task(value):  # type: ignore[no-untyped-def]
        return value

    task.__annotations__ = {"value": kind, "return": kind}
    one = made(task)
    assert one.unpack(*one.pack([value], {})) == ((value,), {})
    assert one.unpack(*one.pack([], {"value": value})) == ((value,), {})
    arrived = one.read_result(one.write_result(value, 100_000))
    assert arrived == value
    assert type(arrived) is type(value) or kind is float


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_any_json_arrives_as_it_was_sent_where_nothing_is_annotated(value: object) -> None:
    one = made(lambda value: value)
    assert one.unpack(*one.pack([value], {})) == ((value,), {})
    assert one.read_result(one.write_result(value, 100_000)) == value


def every(a: int, /, b: int = 2, *rest: float, flag: bool = False, must: str, **more: Color) -> None:
    """Has every kind of parameter."""


def test_every_kind_of_parameter_is_bound_and_converted() -> None:
    one = made(every)
    packed = one.pack([1, 2, 3, 4], {"must": "x", "flag": True, "other": Color.RED})
    assert one.unpack(*packed) == ((1, 2, 3.0, 4.0), {"must": "x", "flag": True, "other": Color.RED})
    assert [type(value) for value in one.unpack(*packed)[0]] == [int, int, float, float]


def test_defaults_are_left_to_the_code_that_runs() -> None:
    assert made(every).pack([1], {"must": "x"}) == (b"[1]", b'{"must":"x"}')
    assert made(every).unpack(b"[1]", b'{"must":"x"}') == ((1,), {"must": "x"})


def test_the_parameters_can_be_shown_as_a_form() -> None:
    *known, more = made(every).parameters
    assert known == [
        Parameter("a", "int", required=True, default=None, positional=True),
        Parameter("b", "int", required=False, default=2, positional=True),
        Parameter("rest", "float", required=False, default=None, positional=False),
        Parameter("flag", "bool", required=False, default=False, positional=False),
        Parameter("must", "str", required=True, default=None, positional=False),
    ]
    assert (more.name, more.required, more.positional) == ("more", False, False)
    assert more.type.endswith("Color")
    assert made(lambda x: x).parameters == [Parameter("x", "any", required=True, default=None, positional=True)]


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ([], {"must": "x"}, "missing a required"),
        ([1], {}, "must"),
        ([], {"a": 1, "must": "x"}, "'a'"),
        ([1, 2], {"b": 2, "must": "x"}, "multiple values"),
        (["1"], {"must": "x"}, "a: Expected `int`, got `str`"),
        ([True], {"must": "x"}, "a: Expected `int`, got `bool`"),
        ([1.5], {"must": "x"}, "a: Expected `int`, got `float`"),
        ([None], {"must": "x"}, "a: Expected `int`, got `null`"),
        ([1, 2, "x"], {"must": "x"}, r"rest: Expected `float`, got `str` - at `\$\[0\]`"),
        ([1], {"must": 7}, "must: Expected `str`, got `int`"),
        ([1], {"must": "x", "other": "blue"}, "more: Invalid enum value"),
        ([1j], {"must": "x"}, "type 'complex' cannot be written as JSON"),
        ([object()], {"must": "x"}, "type 'object' cannot be written as JSON"),
        (["\ud800"], {"must": "x"}, "surrogates"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_submit(
    args: list[object], kwargs: dict[str, object], problem: str
) -> None:
    one = made(every)
    with pytest.raises(InvalidArguments, match=problem) as caught:
        one.submit(*args, **kwargs)
    assert caught.value.task_type == "every"
    assert one._outlet.calls == []  # type: ignore[attr-defined]


@dataclasses.dataclass(eq=False)
class Sloppy:
    """Compares with its own kind only."""

    x: int
    any: Any = None

    def __eq__(self, other: object) -> bool:
        return self.x == other.x  # type: ignore[attr-defined, no-any-return]

    __hash__ = None  # type: ignore[assignment]


class Maybe(msgspec.Struct):
    when: Any = None
    ratio: float | None = None


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (str, b"...", "value: Expected `str`, got `bytes`"),
        (str, NOON, "value: Expected `str`, got `datetime`"),
        (str, uuid.UUID(int=7), "value: Expected `str`, got `uuid`"),
        (str, Color.RED, "value: Expected `str`, got `Color`"),
        (bytes, "text", "value: Expected `bytes`, got `str`"),
        (bytes | None, "text", "value: Expected `bytes .*`, got `str`"),
        (list[bytes], ["text"], "value: Expected `bytes`, got `str`"),
        (int | str, b"x", "value: Expected `int | str`, got `bytes`"),
        (dict[str, str], {"a": b"x"}, "value: Expected `str`, got `bytes`"),
        (dict[str, int], {1: 2}, "value: Expected `str`, got `int`"),
        (float | None, float("nan"), "value: JSON has no nan and no infinity"),
        (float, float("inf"), "value: JSON has no nan and no infinity"),
        (Any, b"x", "value: bytes would arrive as str, because no annotation"),
        (Any, NOON, "value: datetime would arrive as str"),
        (Any, decimal.Decimal("1.5"), "value: Decimal would arrive as str"),
        (dict, {1: 2}, "value: int would arrive as str"),
        (dict[str, Any], {"a": [1, NOON]}, "value: datetime would arrive as str"),
        (Maybe, Maybe(when=NOON), "value: datetime would arrive as str"),
        (Maybe, Maybe(ratio=float("nan")), "value: JSON has no nan"),
        (Sloppy, Sloppy(1, b"x"), "value: bytes would arrive as str"),
    ],
)
def test_what_would_arrive_as_something_else_is_refused_at_submit(kind: Any, value: object, problem: str) -> None:
    def task(value):  # type: ignore[no-untyped-def]
        return value

    task.__annotations__ = {"value": kind}
    one = made(task)
    for args, kwargs in (([value], {}), ([], {"value": value})):
        with pytest.raises(InvalidArguments, match=problem):
            one.submit(*args, **kwargs)
    assert one._outlet.calls == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *VALUES,
        (list[int], (1, 2)),
        (set[int | str], [1, "a"]),
        (dt.datetime, "2026-01-02T12:00:00Z"),
        (uuid.UUID, str(uuid.UUID(int=7))),
        (decimal.Decimal, "1.10"),
        (dt.datetime, dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))),
        (bytes, bytearray(b"x")),
        (bytes | None, b"x"),
        (Point, {"x": 1}),
        (Maybe, Maybe(ratio=1.0)),
        (Sloppy, Sloppy(1)),
        (Sloppy, {"x": 1}),
        (User, {"name": "B", "born": NOON.date()}),
        (Any, (1, ["a"])),
        (Any, Point(1)),
        (Any, Color.RED),
    ],
    ids=str,
)
def test_what_arrives_as_it_was_given_is_submitted(kind: Any, value: object) -> None:
    def task(value):  # type: ignore[no-untyped-def]
        return value

    task.__annotations__ = {"value": kind}
    one = made(task)
    one.submit(value)
    one.submit(value=value)
    assert len(one._outlet.calls) == 2  # type: ignore[attr-defined]


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(InvalidArguments):
        made(lambda value: value).pack([loop], {})


@pytest.mark.parametrize(("args", "kwargs"), [(b"7", b"{}"), (b"[1]", b"[]"), (b"[", b"{}"), (b"[\xff]", b"{}")])
def test_bytes_that_are_no_arguments_are_refused_where_they_run(args: bytes, kwargs: bytes) -> None:
    with pytest.raises(InvalidArguments):
        made(every).unpack(args, kwargs)


def test_a_model_says_what_is_wrong_with_it() -> None:
    def task(user: User) -> None: ...

    with pytest.raises(InvalidArguments, match="born"):
        made(task).pack([{"name": "x"}], {})


def test_a_validator_that_breaks_is_an_argument_that_does_not_fit() -> None:
    class Odd(pydantic.BaseModel):
        @pydantic.model_validator(mode="after")
        def _check(self) -> "Odd":
            raise RuntimeError("odd")

    @dataclasses.dataclass
    class Broken:
        x: int = 0

        def __post_init__(self) -> None:
            raise LookupError("broken")

    def task(value):  # type: ignore[no-untyped-def]
        return value

    for kind, problem in ((Odd, "odd"), (Broken, "broken")):
        task.__annotations__ = {"value": kind, "return": kind}
        with pytest.raises(InvalidArguments, match=problem):
            made(task).unpack(b"[{}]", b"{}")
        with pytest.raises(InvalidResult, match=problem):
            made(task).read_result(b"{}")


def test_a_result_that_is_not_json_or_too_large_is_refused() -> None:
    one = made(every)
    with pytest.raises(InvalidResult, match="type 'complex' cannot be written as JSON"):
        one.write_result(1j, 100)
    with pytest.raises(InvalidResult, match="102 bytes and the limit is 101"):
        one.write_result("x" * 100, 101)
    assert len(one.write_result("x" * 100, 102)) == 102


def test_a_result_of_another_type_than_promised_is_refused() -> None:
    def task() -> int:
        return 1

    for data in (b'"x"', b"{", b"null"):
        with pytest.raises(InvalidResult):
            made(task).read_result(data)


def test_a_task_can_be_called_here_and_keeps_its_words() -> None:
    def double(x: int) -> int:
        """Twice as much."""
        return 2 * x

    one = made(double)
    assert one(4) == 8
    assert (one.name, one.__doc__, repr(one), one.is_async) == ("double", "Twice as much.", "Task('double')", False)


def test_a_coroutine_function_is_known_as_one() -> None:
    async def task() -> int:
        return 1

    assert made(task).is_async


def test_submit_many_publishes_all_calls_at_once() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    one = made(add)
    assert [handle.task_id for handle in one.submit_many([(1, 2), [3, 4]])] == ["id-0", "id-1"]
    assert [(call.args, call.kwargs) for call in one._outlet.calls] == [  # type: ignore[attr-defined]
        (b"[1,2]", b"{}"),
        (b"[3,4]", b"{}"),
    ]
    with pytest.raises(InvalidArguments):
        one.submit_many([(1, 2), (3, "x")])
    assert len(one._outlet.calls) == 2  # type: ignore[attr-defined]


def test_using_changes_a_copy() -> None:
    one = made(every, max_attempts=5)
    other = one.using(queue="other", key="k").using(task_id="id", max_attempts=2)
    assert other.options == Options(queue="other", key="k", task_id="id", max_attempts=2)
    assert one.options == Options(queue="q", max_attempts=5)
    assert one.using().options == one.options
    assert one.using(key="").options.key == ""
    assert one.using(task_id="").options.task_id == ""  # an id, though none that can be used: not one to be made up


def test_the_later_start_counts() -> None:
    one = made(every)
    assert one.using(delay_s=5).using(key="k").options == Options(queue="q", key="k", delay_s=5)
    assert one.using(delay_s=5).using(at=7).options == Options(queue="q", at_ms=7_000)
    assert one.using(at=7).using(delay_s=0).options == Options(queue="q", delay_s=0)


@pytest.mark.parametrize("start", [{"delay_s": -1}, {"at": datetime(2030, 1, 1)}, {"delay_s": 1, "at": 1}])  # noqa: DTZ001
def test_a_start_that_is_none_is_refused_by_name(start: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptions, match=r"^task 'every' cannot be submitted: .*(delay_s|at)"):
        made(every).using(**start)


@pytest.mark.parametrize("name", ["queue", "key", "task_id"])
@pytest.mark.parametrize(
    ("value", "problem"), [(7, "is a str, not 7"), (b"x", "is a str, not b'x'"), ("\ud800", "is no text")]
)
def test_a_name_a_key_or_an_id_that_is_no_text_is_refused(name: str, value: object, problem: str) -> None:
    with pytest.raises(InvalidOptions, match=f"^task 'every' cannot be submitted: {name} {problem}"):
        made(every).using(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, -1])
def test_a_task_has_at_least_one_attempt(number: int) -> None:
    with pytest.raises(InvalidTask, match=f"from 1 to 2147483648, not {number}"):
        made(every, max_attempts=number)
    with pytest.raises(InvalidTask, match=f"from 1 to 2147483648, not {number}"):
        made(every).using(max_attempts=number)


@pytest.mark.parametrize("hint", ["Nowhere", User | int, 7])
def test_annotations_that_cannot_be_used_are_refused_at_once(hint: Any) -> None:
    def task(value):  # type: ignore[no-untyped-def]
        return value

    task.__annotations__ = {"value": hint}
    with pytest.raises(InvalidTask, match="annotations of task 'task'"):
        made(task)


def test_two_tasks_have_two_names() -> None:
    registry = Registry()
    one = made(every)
    registry.add(one)
    registry.add(made(lambda: 1))
    with pytest.raises(InvalidTask, match="two tasks are named 'every'"):
        registry.add(made(every))
    assert registry.names == ["<lambda>", "every"]
    assert registry.get("every") is one
    assert registry.get("os.system") is None


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_time_limit_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidTask, match="time limit of task 'add' is more than 0 s"):
        App("q").task(name="add", time_limit_s=seconds)(lambda: None)


def test_an_isolation_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidTask, match="'process' or left out, not 'thread'"):
        App("q").task(name="add", isolation="thread")(lambda: None)  # type: ignore[call-overload]


def test_other_options_leave_the_limits_as_they_are_and_read_no_annotations_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = App("q")

    @app.task(time_limit_s=2.0)
    def add(a: int, b: int) -> int:
        return a + b

    monkeypatch.setattr("yadtq.task._hints", None)
    other = add.using(key="k", max_attempts=5)
    assert other.limits == add.limits == Limits(time_limit_s=2.0)
    assert (other.options.key, add.options.key) == ("k", None)
    assert other.unpack(b"[1, 2]", b"{}") == ((1, 2), {})
    assert app.registry.get("add") is add
    assert app.registry.solo == ["add"]


@pytest.mark.parametrize("args", [b"[]", b"[1]", b"[1,2]", b'["1"]', b"[1,2,3]", b"[1,2,3,4]", b"{}", b"7"])
def test_by_position_alone_a_task_takes_what_python_would_take(args: bytes) -> None:
    def plain(one: int, two: int = 2, three: object = None) -> None: ...

    values = msgspec.json.decode(args)
    fits = isinstance(values, list) and 1 <= len(values) <= 3 and isinstance(values[0], int)
    if fits:
        assert made(plain).unpack(args, b"{}") == (tuple(values), {})
    else:
        with pytest.raises(InvalidArguments):
            made(plain).unpack(args, b"{}")
