"""The documents name what is there, and nothing is there that they do not name."""

import ast
import json
import re
import subprocess
import sys
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click
import pytest
import test_trace_mutants
import typer
from documents import DOCUMENTS, ROOT, Block, anchors, blocks, commands, described, headings, links, name, rows, spans
from msgspec.structs import fields as struct_fields
from typer.testing import CliRunner

import yadtq
from yadtq import layout, settings
from yadtq.app import App
from yadtq.broker.memory import MemoryBroker
from yadtq.classic.producer import TaskLine
from yadtq.cli import build
from yadtq.dev import demo
from yadtq.envelope import Envelope
from yadtq.errors import SettingsError
from yadtq.layout import Layout
from yadtq.ledger import WorkerRecord
from yadtq.ledger.memory import MemoryLedger
from yadtq.settings import Settings, WorkerSettings
from yadtq.telemetry import EVENTS
from yadtq.web.api import FIELDS
from yadtq.web.order import Order
from yadtq.web.site import create_app
from yadtq.web.view import PartitionView, QueueView

CONFIGURATION = ROOT / "docs" / "configuration.md"
API = ROOT / "docs" / "api.md"
FAULTS = ROOT / "docs" / "faults.md"
HOW = ROOT / "docs" / "how-it-works.md"
PROTOCOL = ROOT / "docs" / "protocol.md"
SCRIPTS = (
    "producer.py",
    "consumer.py",
    "guarantee_consumer.py",
    "monitor_heartbeat.py",
    "monitor_hearbeat.py",
)
SOURCES = sorted((ROOT / "src" / "yadtq").rglob("*.py"))
SOURCE = "\n".join(path.read_text() for path in SOURCES)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_every_python_block_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_every_json_block_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_every_toml_block_can_be_loaded(block: Block, tmp_path: Path) -> None:
    (tmp_path / "yadtq.toml").write_text(block.text)
    loaded = settings.load(folder=tmp_path, environ={})
    assert loaded.kafka.source == loaded.redis.source == "yadtq.toml"


def test_the_hello_world_is_the_same_everywhere() -> None:
    in_package = textwrap.dedent((yadtq.__doc__ or "").partition("\n\n")[2].partition("\n\nImporting")[0])
    assert in_package.splitlines() == blocks("python")[0].text.splitlines()
    example = (ROOT / "examples" / "hello.py").read_text()
    missing = [line for line in in_package.splitlines() if line.strip() not in example]
    assert not missing


def test_the_hello_world_and_the_demo_have_queues_of_their_own() -> None:
    """Else a worker of the one would be given tasks of the other, and end them as unknown."""
    named = re.search(r'yadtq\.App\("(.*)"\)', (ROOT / "examples" / "hello.py").read_text())
    assert named is not None
    assert named[1] != demo.QUEUE


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in links(document):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_make_target_that_is_named_exists_and_the_other_way_round() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    named = {word for _, words in commands() if words[0] == "make" for word in words[1:] if "=" not in word}
    assert named
    assert named <= targets
    assert {"setup", "demo", "check", "test"} <= named


def test_every_script_that_is_named_exists() -> None:
    named = {
        word
        for _, words in commands()
        if words[0] in ("python", "python3", ".venv/bin/python")
        for word in words[1:2]
        if word.endswith(".py")
    }
    assert {"producer.py", "consumer.py", "guarantee_consumer.py", "monitor_heartbeat.py"} <= named
    assert not [script for script in named if not (ROOT / script).exists()]


def all_commands() -> dict[str, click.Command]:
    """Every command of `yadtq` by its words."""
    root: Any = typer.main.get_command(build())  # typer brings a click of its own
    found: dict[str, click.Command] = {}
    for word, command in root.commands.items():
        for below, subcommand in getattr(command, "commands", {}).items():
            found[f"{word} {below}"] = subcommand
        if not hasattr(command, "commands"):
            found[word] = command
    return found


def flags(command: click.Command) -> set[str]:
    return {
        flag
        for parameter in command.params
        for flag in [*parameter.opts, *parameter.secondary_opts]
        if flag.startswith("-") and flag != "--help"
    }


@pytest.mark.parametrize("words", all_commands())
def test_every_command_explains_itself(words: str) -> None:
    answer = CliRunner().invoke(build(), [*words.split(), "--help"])
    assert answer.exit_code == 0, answer.output


def test_help_shows_one_default_of_a_flag_and_the_true_one() -> None:
    """Where 0, which stands for another number, is the default in code, that number is what is shown."""
    shown = {}
    for command in all_commands().values():
        for parameter in command.params:
            told = getattr(parameter, "help", None) or ""
            assert "default:" not in told or parameter.default is None, parameter.opts
            shown[parameter.opts[0]] = getattr(parameter, "show_default", None)
    assert shown["--solo"] == "the number of cores"
    assert shown["--suspects"] == "--concurrency, at most 32"


def test_every_command_that_is_named_exists_with_its_flags() -> None:
    known = all_commands()
    named = [(where, words[1:]) for where, words in commands() if words[0] == "yadtq"]
    assert named
    for where, words in named:
        command = known.get(" ".join(words[:2])) or known.get(words[0])
        assert command is not None, f"{where}: yadtq {' '.join(words)}"
        unknown = {word for word in words if word.startswith("-")} - flags(command) - {"/"}
        assert not unknown, f"{where}: yadtq {' '.join(words)}"


def flags_by_command(heading: str) -> dict[str, set[str]]:
    """What the configuration says of each command; a row without a command belongs to the one above."""
    found: dict[str, set[str]] = {}
    current: set[str] = set()
    for first, second, *_ in rows(CONFIGURATION, heading):
        for words in re.findall(r"`([^`]+)`", first):
            current = found.setdefault(words, set())
        current |= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", second))
    return found


def test_every_command_and_flag_is_documented() -> None:
    documented = {
        " ".join(word for word in words.split()[1:] if word.islower()): found
        for words, found in flags_by_command("The command `yadtq`").items()
    }
    assert documented == {words: flags(command) for words, command in all_commands().items()}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_of_the_original_commands_is_documented(script: str) -> None:
    shown = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    real = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown)) - {"--help"}
    documented = flags_by_command("The original commands")
    found = documented[script]
    if script == "guarantee_consumer.py":  # "as consumer.py, without ..."
        found = documented["consumer.py"] - {"--fail-after", "--never-fail"}
    if script == "monitor_heartbeat.py":  # one row names both spellings
        found = documented["monitor_hearbeat.py"]
    assert real == found


def test_every_field_of_a_task_file_is_documented_and_whether_it_is_required() -> None:
    documented = {name: text.partition(" | ")[0] for name, text in described(CONFIGURATION, "A task file").items()}
    real = {field.name: "yes" if field.required else f"no ({field.default})" for field in struct_fields(TaskLine)}
    assert documented == real


@pytest.mark.parametrize(
    ("heading", "kind"), [("Settings", Settings), ("Settings of a worker", WorkerSettings)], ids=["all", "worker"]
)
def test_every_setting_is_documented_with_its_default(heading: str, kind: type[Settings | WorkerSettings]) -> None:
    documented = described(CONFIGURATION, heading)
    assert documented.keys() == {field.name for field in fields(kind)}
    for field in fields(kind):
        if field.default not in (MISSING, ""):
            assert documented[field.name].partition(" | ")[0].strip("`") == str(field.default), field.name


def test_every_environment_variable_is_documented() -> None:
    ours = set(re.findall(r"\bYADTQ_[A-Z]{3,}\b", SOURCE))
    others = set(re.findall(r"environ\.get\(\"([A-Z_]+)\"|envvar=\"([A-Z_]+)\"|environ\[\"([A-Z_]+)\"\]", SOURCE))
    read = ours | {variable for found in others for variable in found if variable} - {"PATH"}
    assert {"YADTQ_PREFIX", "KEEP", "JAVA_HOME"} <= read
    documented = described(CONFIGURATION, "Where settings come from")
    assert not read - documented.keys()


def test_every_key_of_the_settings_file_is_documented(tmp_path: Path) -> None:
    (tmp_path / "yadtq.toml").write_text('zzzz = "1"')
    with pytest.raises(SettingsError, match="known are") as caught:
        settings.load(folder=tmp_path, environ={})
    known = set(str(caught.value).partition("known are ")[2].split(", "))
    documented = described(CONFIGURATION, "Where settings come from")
    assert known == {key for key, row in documented.items() if row.startswith(("string |", "table |", "number |"))}


def test_every_event_is_documented() -> None:
    assert described(CONFIGURATION, "Events").keys() == EVENTS.keys()


def test_every_route_is_documented(tmp_path: Path) -> None:
    app = App("docs", broker=MemoryBroker(), ledger=MemoryLedger())
    paths = create_app(app, readmodel_path=tmp_path / "lists.sqlite").openapi()["paths"]
    real = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    listed = {f"{method} {path}" for method, path in re.findall(r"`(GET|POST) (/api/\S+)`", API.read_text())}
    assert listed == real
    assert {f"`{route}`" for route in real} <= set(headings(API))


@pytest.mark.parametrize(
    "names",
    [
        FIELDS,
        Order.__struct_fields__,
        *([field.name for field in fields(kind)] for kind in (WorkerRecord, QueueView, PartitionView)),
    ],
    ids=["task", "order", "worker", "queue", "partition"],
)
def test_every_field_of_the_api_is_documented(names: list[str]) -> None:
    text = API.read_text()
    assert not [field for field in names if f"`{field}`" not in text and f'"{field}"' not in text]


def test_every_key_topic_and_header_is_documented() -> None:
    text = HOW.read_text()
    names = Layout()
    headers = [value for key, value in vars(layout).items() if key.startswith("HEADER_")]
    topics = [topic.replace("queue", "Q") for topic in names.queue("queue").all]
    keys = [
        names.task("<id>"),
        names.heartbeats,
        names.epoch("<topic>"),
        names.read("<topic>"),
        names.writes("<topic>"),
        names.barrier("<topic>"),
        names.lock("<topic>"),
        names.due("<topic>", "<partition>"),  # type: ignore[arg-type]
        names.waiting("<topic>", "<partition>"),  # type: ignore[arg-type]
        names.sealed,
        names.runs,
    ]
    assert not [word for word in [*headers, *topics, *keys, *Envelope.__struct_fields__] if f"`{word}`" not in text]


def test_every_field_that_the_scripts_write_is_documented() -> None:
    scripts = "\n".join(path.read_text() for path in (ROOT / "src/yadtq/ledger/scripts").glob("*.lua"))
    writes = re.findall(r"'(?:HSET|HSETNX|HINCRBY)', key,((?:[^()]|\([^()]*\))*)\)", scripts)
    names = {word for write in writes for word in re.findall(r"'([a-z_]+)'", write)}
    assert {"status", "fence", "sealed", "takeovers"} <= names
    text = HOW.read_text()
    assert not [word for word in names if f"`{word}`" not in text]


def test_every_test_that_is_named_exists() -> None:
    named = [span for document in DOCUMENTS for span in spans(document) if span.startswith("tests/")]
    assert any("::" in span for span in named)
    for span in named:
        path, _, test = span.partition("::")
        assert (ROOT / path).exists(), span
        assert not test or f"def {test}(" in (ROOT / path).read_text(), span


def test_every_counterexample_has_its_test_and_its_mutant_and_the_other_way_round() -> None:
    told = {(test.strip("`"), mutant.strip("`")) for _, _, _, test, mutant in rows(PROTOCOL, "Counterexamples")[2:]}
    there = {
        (f"{Path(mutant.red.__code__.co_filename).relative_to(ROOT)}::{mutant.red.__name__}", mutant.name)
        for mutant in test_trace_mutants.TRACES
    }
    assert told == there


def test_every_fault_names_a_test_that_shows_it() -> None:
    listed = [row for heading in headings(FAULTS) for row in rows(FAULTS, heading) if len(row) == 3]
    faults = [row for row in listed if row[0] != "fault" and not row[0].startswith("---")]
    assert len(faults) >= 30
    for fault, _, tests in faults:
        assert re.search(r"`tests/\w+/test_\w+\.py`", tests), fault


@pytest.mark.parametrize("document", [HOW, PROTOCOL], ids=name)
def test_every_file_and_function_that_is_named_exists(document: Path) -> None:
    files = {str(path.relative_to(ROOT / "src/yadtq")) for path in (ROOT / "src" / "yadtq").rglob("*.*")}
    for span in spans(document):
        if re.fullmatch(r"[a-z_/]+\.(py|lua)", span) and not span.startswith("tests/"):
            assert any(file == span or file.endswith(f"/{span}") for file in files), span
        elif found := re.fullmatch(r"[A-Z]\w+\.(\w+)|(_\w+)", span):
            inner = found[1] or found[2]
            assert re.search(rf"\b(def |class )?{inner}\b", SOURCE), span


def test_every_letter_in_the_code_is_explained() -> None:
    scripts = "\n".join(path.read_text() for path in (ROOT / "src/yadtq/ledger/scripts").glob("*.lua"))
    letters = set(re.findall(r"\(([CSTR]\d)\)|\b([CSTR]\d):", SOURCE + scripts))
    used = {letter for pair in letters for letter in pair if letter}
    assert {"C1", "C2", "S2", "S3", "T1", "T2", "R1"} <= used
    explained = {head[:2] for head in headings(PROTOCOL)}
    assert used <= explained


def test_the_decisions_are_numbered_without_gaps_and_say_what_a_decision_says() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [path.name[:4] for path in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    for path in records:
        heads = headings(path)[1:]
        assert heads == ["Context", "Choice", "Price", "When to revisit"], path.name
        assert path.read_text().startswith(f"# {int(path.name[:4])}. "), path.name


def test_the_picture_is_small_and_holds_no_bitmap() -> None:
    picture = (ROOT / "docs" / "gui.svg").read_text()
    assert picture.lstrip().startswith(("<svg", "<?xml"))
    assert len(picture) < 150_000
    assert "<image" not in picture
    assert "data:" not in picture
