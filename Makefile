# Two commands for a newcomer: `make run` and `make test`. They need git, make and Python 3.11 or newer, and the
# network once: the second time nothing is installed.

PYTHON ?= python3
VENV ?= .venv
ARGS ?= --agents 1000 --memory 16GB
TESTS ?=
BENCH ?= actors

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: run test check bench clean help
.DEFAULT_GOAL := help

help:
	@echo "make run     install into $(VENV) and run 1,000 agents (ARGS='--agents 50' runs other ones)"
	@echo "make test    install what the tests need and run them (TESTS=tests/actors runs some of them)"
	@echo "make check   all that CI checks: ruff, mypy, import-linter, pytest"
	@echo "make bench   measure the actors beside plain asyncio (BENCH=memory: the memory manager, BENCH=faults: what must not hurt it)"
	@echo "make clean   remove $(VENV) and what the tools left"

run: $(VENV)/installed
	@$(BIN)/avm $(ARGS)

test: $(VENV)/installed-test
	@$(BIN)/python -m pytest $(TESTS)

check: $(VENV)/installed-dev
	@VENV=$(VENV) scripts/check

bench: $(VENV)/installed
	@$(BIN)/python benchmarks/$(BENCH).py

# A stamp says what was installed; it is old when pyproject.toml is newer. pip has --group from 25.1 on.
$(VENV)/pip-ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "avm needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try make PYTHON=python3.12"; exit 1; }
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install 'pip>=25.1'
	@touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/pip-ready
	@echo "Installing avm ..."
	@$(PIP) install --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml $(VENV)/installed
	@echo "Installing what the tests need ..."
	@$(PIP) install --group test
	@touch $@

$(VENV)/installed-dev: pyproject.toml $(VENV)/installed
	@echo "Installing what development needs ..."
	@$(PIP) install --group dev
	@touch $@ $(VENV)/installed-test

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
