# make demo   see it work: a search on this machine, from a clean clone
# make test   the tests      make lint   style, types, import contracts      make bench   speed, against peers
# make unit   those of them that need no engine, no Ray and no other program, in a minute
# make nightly   what takes too long by day: all compressors on all networks, more kills, many more examples of the
#             property tests, other ones each time
# make tools  what the tests use beside Python, by apt as root; without it they leave out, by name, what needs it
# make house  docs/house.svg: the rooms of raycompress/ and what imports what; fails where an import runs up
# make zoo    docs/networks.md and docs/minilm.md: networks that people have, in an environment of their own; two hours
# make zoo-dozen  a dozen of them and YOLOs by their own trainers, as CI does, in five minutes once the environment
#             (7 GB) is there
# make peers  .venv-peers: NVIDIA ModelOpt, which the section budgets of `make bench` compares with where it is there
# make targets  .venv-targets: inference runtimes that cannot be installed beside the rest, for the tests of deployment;
#             without it they leave out, by name, what needs it
# make deployment  the table of docs/deployment.md: six networks in every runtime, in the environments of zoo and targets
# make docs   the tables of docs/compressors.md and docs/coming-from-auptimizer.md, from the code and from runs
# with another Python: make demo PYTHON=python3.12 (3.11, 3.12 or 3.13; a name, or a path)
PYTHON ?= python3.11
VERSION := $(or $(filter 3.%,$(patsubst python%,%,$(notdir $(PYTHON)))),$(shell $(PYTHON) -c \
	'import sys; print("%d.%d" % sys.version_info[:2])'),$(error $(PYTHON) does not start: give PYTHON=/path/to/python))
# each version has a folder of its own, so that none runs on what was installed for another
VENV := .venv$(addprefix -,$(filter-out 3.11,$(VERSION)))
BIN := $(VENV)/bin
# what `make demo` needs, and what the other targets need on top
CORE := $(VENV)/.core
INSTALLED := $(VENV)/.installed
# networks of other libraries, with the versions of torch that these need
ZOO := .venv-zoo
# inference runtimes whose requirements conflict with those of the other environments; the agent alone runs there
TARGETS := .venv-targets
# pruners that are compared with ours; NVIDIA's asks for its own versions
PEERS := .venv-peers
# the first that starts: the one on the PATH, which may be a shim of pyenv's that does not, or the newest of pyenv's
FIND = $(PYTHON) -c 'import sys; print(sys.executable)' 2>/dev/null || \
	ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(VERSION).*[0-9]/bin/python$(VERSION) 2>/dev/null | sort -V | tail -n 1

.PHONY: demo test unit nightly lint bench tools house zoo zoo-dozen targets peers deployment docs format clean

demo: $(CORE)
	$(BIN)/raycompress launch configs/digits/auto_l1.json

test: $(INSTALLED)
	$(BIN)/pytest

nightly: $(INSTALLED)
	$(BIN)/pytest -m "night or more_at_night" --hypothesis-profile=nightly

unit: $(INSTALLED)
	$(BIN)/pytest -m unit

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

zoo: $(ZOO)/.installed
	$(ZOO)/bin/python -m tests.zoo
	$(ZOO)/bin/python -m tests.zoo.compensated
	$(ZOO)/bin/python -m tests.zoo.minilm

zoo-dozen: $(INSTALLED) $(ZOO)/.installed
	$(BIN)/pytest -n 0 --durations=0 tests/zoo/test_zoo.py tests/integrations/test_yolo.py

targets: $(TARGETS)/.installed

peers: $(PEERS)/.installed

deployment: $(ZOO)/.installed $(TARGETS)/.installed
	$(ZOO)/bin/python -m tests.benchmarks.deployment

docs: $(INSTALLED)
	$(BIN)/python -m tests.tables

$(CORE): pyproject.toml constraints.txt
	@python=$$($(FIND)); if [ -z "$$python" ]; then \
		echo "there is no $(PYTHON) on the PATH and no Python $(VERSION) of pyenv's" >&2; \
		echo "    fix: pyenv install $(VERSION), or make ... PYTHON=/path/to/python" >&2; exit 1; fi; \
	if [ -e $(BIN)/python ] && ! $(BIN)/python --version | grep -q '^Python $(VERSION)[.]'; then \
		echo "$(VENV) was made with another Python than $(VERSION)" >&2; echo "    fix: make clean" >&2; exit 1; fi; \
	"$$python" -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(ZOO)/.installed: tests/zoo/requirements.txt
	@python=$$($(FIND)); "$$python" -m venv $(ZOO)
	$(ZOO)/bin/pip install --quiet --no-compile --requirement tests/zoo/requirements.txt
	$(ZOO)/bin/pip install --quiet --no-compile --no-deps ultralytics==8.4.190
	touch $@

$(TARGETS)/.installed: tests/deployment/requirements.txt
	@python=$$($(FIND)); "$$python" -m venv $(TARGETS)
	$(TARGETS)/bin/pip install --quiet --requirement tests/deployment/requirements.txt
	touch $@

$(PEERS)/.installed: tests/benchmarks/peers/requirements.txt
	@python=$$($(FIND)); "$$python" -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --requirement tests/benchmarks/peers/requirements.txt
	touch $@

$(INSTALLED): $(CORE)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-* build dist
