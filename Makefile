# make setup   a virtual environment with everything in .venv
# make demo    the whole job on real Kafka and Valkey; KEEP=1 keeps it up until Ctrl+C
# make check   format, lint, types, floors, and the tests that need no services: under a minute
# make test    everything, on a real Kafka, a real Valkey and a real browser
# make soak    faults that last a minute, a storm of 60,000 tasks, a crash at every point: 25 minutes; YADTQ_SEED replays
# make bench   how fast it is here, beside Celery, Dramatiq and Huey: about 20 minutes; BENCH="--scenario drain" picks

PYTHON ?= python3
BIN := .venv/bin
MARK := .venv/.ready

.PHONY: setup demo check test soak bench lint browser clean

setup: $(MARK)

$(MARK): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("YADTQ needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[web,embedded,dev]'
	@touch $(MARK)

demo: setup
	@$(BIN)/yadtq demo

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/pytest -q tests/unit tests/engine tests/guarantee -m "not real and not slow"
	$(BIN)/pytest -q tests/contract -m "not real and not slow"

test: lint browser
	$(BIN)/pytest

soak: setup
	$(BIN)/pytest -s -m soak tests/guarantee tests/scenario

bench: setup
	@$(BIN)/yadtq bench $(BENCH)

# The page tests drive a real Chromium; where it is missing it is installed if that can be done without asking.
browser:
	@command -v chromium >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
	  else echo "The page tests need Chromium: sudo apt-get install chromium (Debian, Ubuntu), or put a \`chromium\` on PATH"; exit 1; fi; }

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
