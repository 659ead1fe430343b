# make demo   see it work: a search on this machine, from a clean clone
# make test   the tests      make lint   style, types, import contracts      make bench   speed, against peers
# make nightly   the property tests with many more examples, other ones each time; the kill tests with more kills
# make tools  what the tests use beside Python, by apt as root; without it they leave out, by name, what needs it
# make house  docs/house.svg: the rooms of raycompress/ and what imports what; fails where an import runs up
# make docs   the tables of docs/compressors.md and docs/coming-from-auptimizer.md, from the code and from runs
VENV := .venv
PYTHON ?= python3.11
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test nightly lint bench tools house docs format clean

demo: $(INSTALLED)
	$(BIN)/raycompress launch configs/digits/auto_l1.json

test: $(INSTALLED)
	$(BIN)/pytest

nightly: $(INSTALLED)
	$(BIN)/pytest tests/fuzz tests/session/test_killed.py tests/session/test_s3_killed.py --hypothesis-profile=nightly

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks

tools:
	apt-get install --quiet --quiet --yes --no-install-recommends chromium openssh-server rsync

house: $(INSTALLED)
	$(BIN)/python -m tests.tables.house

docs: $(INSTALLED)
	$(BIN)/python -m tests.tables

# torch first and alone: its pin keeps everything after it from bringing another build
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist
