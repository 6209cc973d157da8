# `make demo` and `make test` start from a machine with Python 3.11 or newer, make, and a network. They install
# the versions of constraints.txt; with LATEST=1 the newest ones, beside the others, and say what differs.
.PHONY: installed demo test bench lint docs screenshots wheel wheel-plain wheel-whole constraints differs clean \
    redis-server chromium

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
    command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv$(if $(LATEST),-latest)
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := export DEBIAN_FRONTEND=noninteractive; $(SUDO) apt-get update -q && $(SUDO) apt-get install -q -y
PINNED := $(CURDIR)/constraints.txt
PIN := $(if $(LATEST),,PIP_CONSTRAINT=$(PINNED) PIP_BUILD_CONSTRAINT=$(PINNED))
# pip compiles one file after the other; so many on all processors, without tests of what is installed. And ours: where
# Python is told to write no byte code, each process of the tests would compile what it imports.
define INSTALL
$(PIN) $(BIN)/python -m pip --disable-pip-version-check install -q --no-compile -e '.[$(1)]'
@$(BIN)/python -m compileall -q -j 0 -x /tests/ $(VENV)/lib sfdaq_ophyd >/dev/null 2>&1 || true
@touch $@
endef
FREEZE = -m pip --disable-pip-version-check freeze --exclude-editable
# Six workers, however many processors there are: tests wait for half of their time. Each takes tests that lie
# together, then what others have left.
PYTEST_ARGS ?= -n 6 --dist worksteal

demo: $(VENV)/.installed
	$(BIN)/sfdaq demo --directory demo-output

test: $(VENV)/.installed-test redis-server chromium $(if $(LATEST),differs)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks $(BENCH)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --config setup.cfg --no-cache
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	rm -rf docs/reference/api
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# Pictures of the live page in docs/_static; look at them before they are committed. The gate takes them elsewhere.
SCREENSHOTS ?= docs/_static
screenshots: $(VENV)/.installed-test chromium
	$(BIN)/python -m docs.screenshots $(SCREENSHOTS)

# Built, installed into a fresh environment of each Python there is, and run in an empty folder; then with everything.
wheel:
	rm -rf dist
	$(MAKE) wheel-plain wheel-whole

# Made once, for both that follow: whoever wants it anew removes dist.
dist/.built: | $(VENV)/pyvenv.cfg
	rm -rf build dist
	$(PIN) $(BIN)/python -m pip --disable-pip-version-check wheel -q --no-deps -w dist .
	rm -rf build
	@touch $@

wheel-plain: dist/.built
	$(PIN) nice .ci/wheel plain $(VENV)

wheel-whole: dist/.built $(VENV)/.installed
	$(PIN) .ci/wheel whole $(VENV)

constraints:
	rm -rf .venv-latest build/backend
	$(MAKE) LATEST=1 .venv-latest/.installed-dev
	$(PYTHON) -m venv build/backend
	build/backend/bin/python -m pip --disable-pip-version-check install -q 'setuptools>=77' 'setuptools_scm>=8'
	{ echo "# Made by make constraints: what make demo and make test install."; \
	  { .venv-latest/bin/python $(FREEZE); build/backend/bin/python $(FREEZE) --all --exclude pip; } | LC_ALL=C sort -fu; \
	} > constraints.txt

differs: $(VENV)/.installed-test
	@echo "Installed, with what constraints.txt has in its place:"
	@$(BIN)/python $(FREEZE) | grep -vxiFf constraints.txt | while read -r line; do \
	  echo "$$line ($$(grep -i "^$${line%%==*}==" constraints.txt || echo nothing))"; done

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; apt-get install python3"; exit 1; }
	@# Debian keeps a part of venv in a package of its own
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(APT) python3-venv; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(call INSTALL,all)

$(VENV)/.installed-test: setup.cfg pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(call INSTALL,test)

$(VENV)/.installed-dev: setup.cfg pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(call INSTALL,dev)

# The Redis tests run against a real server beside the embedded one. What uses apt goes one after the other.
redis-server: | $(VENV)/pyvenv.cfg
	@command -v redis-server >/dev/null || { $(APT) redis-server; }

# The live page is tested in a browser without a screen.
chromium: | redis-server
	@command -v chromium >/dev/null || { $(APT) chromium; }

# All that any target needs, before several run at once: two pips in one environment spoil it.
installed: $(VENV)/.installed-dev redis-server chromium
	@touch $(VENV)/.installed $(VENV)/.installed-test

clean:
	rm -rf .venv .venv-latest build dist *.egg-info demo-output docs/_build docs/reference/api benchmarks/results.json
