"""Every error a caller can meet, as one tree.

    YadtqError
    ├── SettingsError            a setting is wrong; nothing was started
    ├── ServiceError             an embedded service could not be started or stopped
    ├── InvalidTask              a task function cannot be registered as written
    ├── SubmitError              nothing was published
    │   ├── InvalidArguments     arguments do not fit the task's signature
    │   ├── InvalidOptions       the id, the start or another option of a submit cannot be used
    │   ├── TooLarge             the envelope is over the size limit
    │   ├── NotReplayable        a dead letter cannot run again as it is
    │   └── Fenced               the attempt that submits does not count any more
    ├── SubmitUnknown            Kafka gave no report in time: published or not, nobody knows yet
    │   └── ReplayUnknown        the same of the replay of a dead letter
    ├── Unavailable              a store does not answer
    │   ├── BrokerUnavailable
    │   └── LedgerUnavailable
    │       └── LedgerFull       it answers, and takes nothing new
    ├── NotFound                 no task has this id
    ├── UnknownQueue             no queue has this name
    ├── NotGrowable              a queue cannot get more partitions now
    ├── NoDeadLetter             no dead letter has this id
    ├── TaskFailed               the task ended FAILED; carries its error log
    ├── InvalidResult            a result is not what the task's signature says
    ├── ResultTimeout            not final yet when the wait was over
    ├── NotInsideTask            a task asked for something that only works outside of tasks
    ├── Superseded               a newer process runs under this worker's name
    └── StandsStill              a loop of this worker does not move any more

One invariant: the text says what happened and what to do next; the facts stand as attributes.
"""

from collections.abc import Sequence


class YadtqError(Exception):
    """Anything YADTQ raises on purpose."""


class SettingsError(YadtqError):
    """A setting is missing, unknown or out of range."""


class ServiceError(YadtqError):
    """An embedded service could not be started, reached or stopped."""


class InvalidTask(YadtqError):
    """A function cannot be registered as a task as it is written."""


class SubmitError(YadtqError):
    """The task was not published."""


class InvalidArguments(SubmitError):
    """The arguments do not fit the task's signature."""

    def __init__(self, task_type: str, problem: str) -> None:
        super().__init__(f"arguments of task {task_type!r} do not fit: {problem}")
        self.task_type = task_type


class InvalidOptions(SubmitError):
    """The id, the start or another option of a submit cannot be used."""

    def __init__(self, task_type: str, problem: str) -> None:
        super().__init__(f"task {task_type!r} cannot be submitted: {problem}")
        self.task_type = task_type


class TooLarge(SubmitError):
    """The envelope is larger than Kafka is asked to carry."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the task takes {size_bytes:,} bytes and the limit is {limit_bytes:,}; "
            "store the data elsewhere and pass a reference to it"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class NotReplayable(SubmitError):
    """A dead letter cannot run again as it is; the text says what would help."""


class Fenced(SubmitError):
    """A task submits whose attempt does not count any more: another one has taken its place, or it is over."""

    def __init__(self, task_id: str, attempt: int) -> None:
        super().__init__(
            f"attempt {attempt} of task {task_id!r} does not count any more, so what it submits is not published. "
            "Let it end; its result would be refused too"
        )
        self.task_id = task_id
        self.attempt = attempt


class SubmitUnknown(YadtqError):
    """Kafka did not report in time: the task may or may not be published.

    Submit again with the same task id: it runs once, whichever of the two arrived. After `submit_many`, `task_ids` are
    the ids of all calls, in order, and `unknown` are those that have to be submitted again.
    """

    def __init__(self, task_id: str, reason: str, task_ids: Sequence[str] = (), unknown: Sequence[str] = ()) -> None:
        super().__init__(
            f"no delivery report for task {task_id!r} ({reason}); it may have been published. "
            "Submit it again with the same task_id: one id runs once"
        )
        self.task_id = task_id
        self.task_ids = tuple(task_ids) or (task_id,)
        self.unknown = tuple(unknown) or (task_id,)


class ReplayUnknown(SubmitUnknown):
    """Kafka did not report in time: the replay may or may not be published."""

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(task_id, reason)
        self.args = (
            f"no delivery report for the replay {task_id!r} ({reason}); it may have been published. Make the same "
            "replay once more: it has the same id, and one id runs once",
        )


class Unavailable(YadtqError):
    """A store does not answer."""


class BrokerUnavailable(Unavailable):
    """Kafka does not answer."""


class LedgerUnavailable(Unavailable):
    """Redis or Valkey does not answer, or refuses the command."""


class LedgerFull(LedgerUnavailable):
    """Redis or Valkey is full: it answers, and takes nothing new."""


class NotFound(YadtqError):
    """No task has this id: never submitted, or finished longer ago than records are kept."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"no task has the id {task_id!r}: never submitted, or its record has expired")
        self.task_id = task_id


class UnknownQueue(YadtqError):
    """No queue has this name."""

    def __init__(self, queue: str, known: Sequence[str]) -> None:
        import difflib  # for this text only

        near = difflib.get_close_matches(queue, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"no queue is named {queue!r}: {hint}known are {', '.join(known) or 'none'}")
        self.queue = queue


class NotGrowable(YadtqError):
    """A queue in the order of keys is not drained: with more partitions a key's new tasks would pass its old ones."""


class NoDeadLetter(YadtqError):
    """No dead letter has this id."""

    def __init__(self, queue: str, letter_id: str) -> None:
        super().__init__(
            f"queue {queue!r} has no dead letter {letter_id!r}; an id is PARTITION/OFFSET of the dead-letter topic or "
            "the id of the task"
        )
        self.queue = queue
        self.letter_id = letter_id


class TaskFailed(YadtqError):
    """The task ended FAILED."""

    def __init__(self, task_id: str, attempts: int, error_log: str) -> None:
        last_line = error_log.strip().rsplit("\n", 1)[-1]
        super().__init__(f"task {task_id!r} failed after {attempts} attempt(s): {last_line}")
        self.task_id = task_id
        self.attempts = attempts
        self.error_log = error_log


class InvalidResult(YadtqError):
    """A result cannot be JSON, is too large, or is not of the type that the task's signature names."""

    def __init__(self, task_type: str, problem: str) -> None:
        super().__init__(f"result of task {task_type!r} does not fit: {problem}")
        self.task_type = task_type


class ResultTimeout(YadtqError, TimeoutError):
    """The task was not final when the wait was over. It goes on; wait again."""

    def __init__(self, task_id: str, timeout_s: float) -> None:
        super().__init__(f"task {task_id!r} is not final after {timeout_s:g} s; it goes on, wait again")
        self.task_id = task_id
        self.timeout_s = timeout_s


class NotInsideTask(YadtqError):
    """A task asked for something that only works outside of tasks."""


class Superseded(YadtqError):
    """A newer process runs under this worker's name, so this one has to leave."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"another process has started under the worker name {name!r}; this one leaves. Names are unique"
        )
        self.name = name


class StandsStill(YadtqError):
    """A loop of this worker does not move any more, so the worker leaves: others take over what it has."""

    def __init__(self, loop: str, seconds: float, stack: str) -> None:
        super().__init__(
            f"{loop} has not moved for {seconds:g} s; this worker leaves, so that others take over what it has. "
            f"Start it again; where it stood is worth a report:\n{stack}"
        )
        self.loop = loop
        self.stack = stack
