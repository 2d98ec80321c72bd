# Strongroom: every target prepares what it needs, so each works first on a fresh machine.
# PYTHON picks the interpreter (3.11 or newer); SERVERS is where built test servers are cached.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
SERVERS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/strongroom/servers
BIN := .venv/bin
RUN_READY := .venv/.run-ready
DEV_READY := .venv/.dev-ready
export STRONGROOM_TEST_SERVERS := $(SERVERS)

.PHONY: help run test check bench soak servers lock clean

help: ## what each target does
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Strongroom needs Python 3.11 or newer; name one with PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

$(RUN_READY): requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_READY): requirements-dev.lock $(RUN_READY)
	$(BIN)/pip install --disable-pip-version-check --quiet --require-hashes -r requirements-dev.lock
	@touch $@

run: $(RUN_READY) ## serve the whole product on embedded defaults
	@exec $(BIN)/strongroom serve --demo

test: $(DEV_READY) ## run every test; real S3 servers are used where `make servers` has put them
	$(BIN)/python -m pytest

check: $(DEV_READY) ## lint, types, layers, migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.house.migrations_match

bench: $(DEV_READY) servers ## every speed and memory target beside its floor
	$(BIN)/python -m bench

soak: $(DEV_READY) servers ## the long loops: kills, faults, sizes
	$(BIN)/python -m pytest -m soak --override-ini addopts= -ra -v tests

servers: ## build the real servers that tests use into $(SERVERS)
	tests/servers/build $(SERVERS)

lock: $(DEV_READY) ## pin dependencies anew, with hashes
	$(BIN)/uv pip compile pyproject.toml --extra build --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra build --extra dev -c requirements.lock --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet -o requirements-dev.lock

clean: ## remove the environment and caches; the home folder and its documents stay
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
