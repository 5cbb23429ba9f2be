"""What a data folder knows about its services between two commands.

`services.json` tells other programs where the services are and `yadtq down` which processes they are; it is there
while they run. `ports.json` stays, so that a service comes back where its clients look for it.

One invariant: a file is replaced whole or not at all, so that a reader never sees half of one.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from yadtq.dev.process import Identity
from yadtq.errors import ServiceError
from yadtq.settings import SERVICES_FILE

PORTS_FILE = "ports.json"


@dataclass(frozen=True)
class Record:
    """One service that `yadtq up` started and `yadtq down` has not ended."""

    pid: int
    birth: str
    port: int
    address: str
    version: str
    started_at_ms: int
    log: str

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.birth)


class Records:
    """The records of one data folder."""

    def __init__(self, folder: Path) -> None:
        self._services = folder / SERVICES_FILE
        self._ports = folder / PORTS_FILE

    def read(self) -> dict[str, Record]:
        """The services by name; empty when none was started.

        Raises:
            ServiceError: The file is not what was written here.
        """
        table = _read(self._services).get("processes", {})
        try:
            return msgspec.convert(table, dict[str, Record])
        except msgspec.ValidationError as error:
            raise ServiceError(_unreadable(self._services, error)) from error

    def write(self, records: Mapping[str, Record]) -> None:
        """Keep these and no others. Each address stands at the top as well, where `Settings` reads it."""
        if not records:
            self._services.unlink(missing_ok=True)
            return
        addresses = {name: record.address for name, record in records.items()}
        _write(self._services, {**addresses, "processes": {name: asdict(record) for name, record in records.items()}})

    def port(self, name: str) -> int | None:
        """Where a service listened the last time."""
        number = _read(self._ports).get(name)
        return number if isinstance(number, int) else None

    def keep_port(self, name: str, number: int) -> None:
        ports = _read(self._ports)
        if ports.get(name) != number:
            _write(self._ports, {**ports, name: number})


def _read(path: Path) -> dict[str, object]:
    try:
        table = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ServiceError(_unreadable(path, error)) from error
    if not isinstance(table, dict):
        raise ServiceError(_unreadable(path, "not a table"))
    return table


def _write(path: Path, table: Mapping[str, object]) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(table, file, indent=2)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _unreadable(path: Path, reason: object) -> str:
    return f"{path} cannot be read ({reason}); end what runs there, remove the file and run `yadtq up` again"
