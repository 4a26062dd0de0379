# Everything a person or a machine does with this checkout. A fresh machine needs python3 (3.11 or newer) and make.
# `make` alone tells what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first interpreter that is new enough; PYTHON=… chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Paths are relative, so a checkout may lie anywhere. The stamp names this place, because an environment that was moved is broken.
RUN := .venv/bin/python
READY := .venv/ready-$(shell pwd | cksum | cut -d' ' -f1)
PYTEST := $(RUN) -m pytest
# Two files of tests at a time; WORKERS=0 runs them in one process, as a debugger needs it.
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile

.PHONY: help setup demo demo-cockroach check lint test test-all faults bench docs lock clean

help: ## This list
	@echo 'Millstream. The first target makes .venv from requirements.lock (a minute or two); nothing is installed elsewhere.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'Pass options by ARGS:  make demo ARGS="--rows 20000 --keep"    make test ARGS="-k window -x"'

setup: $(READY) ## Make .venv; the others do this themselves

$(READY): requirements.lock pyproject.toml
	@if [ -z '$(PYTHON)' ]; then echo 'Python 3.11 or newer is needed and was not found. Install it, or say which: make PYTHON=/path/to/python3' >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip'; then echo '$(PYTHON) has no ensurepip. Install its venv package (Debian, Ubuntu: apt install python3-venv).' >&2; exit 1; fi
	@echo 'Making .venv from requirements.lock'
	@rm -f .venv/ready-*
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## A real PostgreSQL, real data, live changes; every document compared with Postgres's own join
	@$(RUN) -m demo.flights $(ARGS)

demo-cockroach: $(READY) ## The same for CockroachDB: ten tables of a stand-in, or of your cluster (MILLSTREAM_COCKROACH_URL)
	@$(RUN) -m demo.films $(ARGS)

check: lint ## Style, types, the architecture and the unit tests; under a minute
	@$(PYTEST) $(PARALLEL) -m 'not long' tests/architecture tests/unit $(ARGS)

lint: $(READY)
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

test: lint ## All that fits in CI: check, conformance, short faults, end to end
	@$(PYTEST) $(PARALLEL) -m 'not long' $(ARGS)

test-all: lint ## The long ones too
	@$(PYTEST) $(ARGS)

faults: $(READY) ## Processes killed at named and at random moments, long ones too
	@$(PYTEST) -m faults $(ARGS)

bench: $(READY) ## Measure, each beside its peer and its limit, into benchmarks/results/
	@$(RUN) -m benchmarks.codec
	@$(RUN) -m benchmarks.drain
	@$(RUN) -m benchmarks.growth
	@$(RUN) -m benchmarks.documents
	@$(RUN) -m benchmarks.backfill
	@$(RUN) -m benchmarks.changefeed
	@$(RUN) -m benchmarks.admission

docs: $(READY) ## Write the pages of docs/reference that the code says itself
	@$(RUN) docs/generate.py

lock: $(READY) ## Resolve the newest versions that pyproject.toml allows into requirements.lock
	@$(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
	  --group dev --output-file requirements.lock pyproject.toml

clean: ## Remove .venv and every cache inside the checkout
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
