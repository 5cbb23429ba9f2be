"""What `import yadtq` costs."""

import subprocess
import sys

import pytest

AT_THE_FIRST_SUBMIT = (  # a third of what a child would spend on its start
    "yadtq.broker",
    "yadtq.ledger",
    "yadtq.publisher",
    "yadtq.settings",
    "yadtq.waiter",
    "concurrent.futures",
    "difflib",
    "hashlib",
    "logging",
    "pathlib",
    "tempfile",
    "tomllib",
)
HEAVY = ("asyncio", "confluent_kafka", "redis", "pydantic", "fastapi", "rich", "typer")


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    program = f"{statement}\nimport sys; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(shown.stdout.split())


def test_importing_yadtq_loads_no_client_and_no_framework() -> None:
    assert not loaded_by("import yadtq; yadtq.App") & set(HEAVY)


@pytest.mark.parametrize("port", ["broker", "ledger"])
def test_importing_a_port_loads_no_client(port: str) -> None:
    assert not loaded_by(f"import yadtq.{port}") & set(HEAVY)


def test_defining_a_task_loads_no_client() -> None:
    program = "import yadtq\napp = yadtq.App('demo')\n@app.task\ndef add(a: int, b: int) -> int:\n    return a + b"
    assert not loaded_by(program) & set(HEAVY)


def test_a_child_process_loads_no_client_and_no_event_loop_until_it_needs_one() -> None:
    assert not loaded_by("import yadtq.runners.child") & set(HEAVY)


@pytest.mark.parametrize("module", ["yadtq", "yadtq.runners.child"])
def test_what_only_a_submit_needs_is_loaded_by_none_that_runs_tasks(module: str) -> None:
    before = loaded_by("pass")  # what the interpreter brings by itself
    assert not (loaded_by(f"import {module}") - before) & set(AT_THE_FIRST_SUBMIT)


def test_every_name_of_the_front_door_is_there() -> None:
    import yadtq

    assert yadtq.__all__ == sorted(yadtq.__all__)
    assert all(hasattr(yadtq, name) for name in yadtq.__all__)
