# make run: the page with the sample X-rays, from nothing. make test: everything that must hold, from nothing.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
ROOT ?= data
PORT ?= 8000

.PHONY: run test install-test lint types unit bench clean

run: .venv/runtime
	@test -d $(ROOT)/inbox || (mkdir -p $(ROOT)/inbox && cp events/samples/*.jpeg $(ROOT)/inbox/)
	@$(BIN)/cxr up --root $(ROOT) --port $(PORT)

.venv/runtime: pyproject.toml constraints.txt
	@echo "installing into .venv (about a minute, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 run")'
	@$(PYTHON) -m venv .venv
	@$(PIP) --editable .
	@touch $@

# A stage of the tests: says how long it took.
stage = @start=$$(date +%s); $(2) || exit 1; echo "$(1): $$(($$(date +%s) - start)) s"

test:
	$(call stage,install,$(MAKE) --no-print-directory install-test)
	$(call stage,lint,$(MAKE) --no-print-directory lint)
	$(call stage,types,$(MAKE) --no-print-directory types)
	$(call stage,tests,$(MAKE) --no-print-directory unit)

install-test: .venv/tests
	@tests/install-system-packages

.venv/tests: pyproject.toml constraints.txt
	@$(PYTHON) -m venv .venv
	@$(PIP) --editable '.[test]'
	@touch $@ .venv/runtime

lint:
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

types:
	@$(BIN)/mypy --no-error-summary

unit:
	@$(BIN)/pytest

bench: .venv/tests
	@$(BIN)/python -m bench.latency
	@$(BIN)/python -m bench.inference

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
