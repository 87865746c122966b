# `make help` lists what can be made. Each target installs what it needs into .venv.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
ROOT ?= data
PORT ?= 8000
IMAGES ?= events/samples
SAM := .venv/sam/1.170.0
LAMBDA ?= build/lambda
LAMBDA_PYTHON ?= 3.13
LAMBDA_PLATFORM ?= manylinux2014_x86_64
LIBRARIES = $(LAMBDA).$(LAMBDA_PYTHON)-$(LAMBDA_PLATFORM)

.PHONY: help run test unit install-test system-packages lint types tests fuzz faults bench lambda clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/runtime ## open the page with eight synthetic X-rays
	@test -d $(ROOT)/inbox || (mkdir -p $(ROOT)/inbox && cp events/samples/*.jpeg $(ROOT)/inbox/)
	@$(BIN)/cxr up --root $(ROOT) --port $(PORT)

.venv/runtime: pyproject.toml constraints.txt
	@echo "installing into .venv (about a minute, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 run")'
	@$(PYTHON) -m venv .venv
	@$(PIP) --editable .
	@touch $@

# Libraries are installed uncompiled: each is compiled when it is first imported, and that has to be kept. Where it is
# not, each of the many processes of the tests would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE

# A stage of the tests: says how long it took.
stage = @start=$$(date +%s); $(2) || exit 1; echo "$(1): $$(($$(date +%s) - start)) s"

test: ## check everything that must hold, in under ten minutes
	$(call stage,install,$(MAKE) --no-print-directory --jobs=3 install-test)
	$(call stage,lint,$(MAKE) --no-print-directory lint)
	$(call stage,types and tests,$(MAKE) --no-print-directory --jobs=2 types tests)

unit: .venv/tests ## run the tests that need no process, server or browser, in under a minute
	@OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=worksteal -m "not whole"

install-test: .venv/tests $(SAM) system-packages

system-packages:
	@tests/install-system-packages

.venv/tests: pyproject.toml constraints.txt
	@$(PYTHON) -m venv .venv
	@$(PIP) --no-compile --editable '.[test]'
	@touch $@ .venv/runtime

# A virtual environment of its own: it asks for other versions than ours.
$(SAM):
	@$(PYTHON) -m venv .venv/sam
	@.venv/sam/bin/pip install --quiet --disable-pip-version-check --no-compile aws-sam-cli==$(@F)
	@touch $@

lint: ## check style
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

types: ## check types
	@$(BIN)/mypy --no-error-summary

tests:
	@OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

# Damages files at random and judges them, for SECONDS; the findings are kept in build/fuzz.
fuzz: SECONDS = 600
fuzz: SEED = 1
fuzz: .venv/tests ## damage files at random and judge them, for SECONDS
	@$(BIN)/python -m tests.support.fuzz --seconds $(SECONDS) --seed $(SEED) --folder build/fuzz

# Fills the disk, locks and damages the worklist, kills processes under a running `cxr up`, for SECONDS each.
faults: SECONDS = 40
faults: .venv/tests ## break the disk, the worklist and processes, and count verdicts
	@$(BIN)/python -m bench.faults $(SECONDS)

# Measures on the X-rays of a folder and writes docs/benchmarks.md; QUICK=--quick only tries everything.
bench: .venv/tests .venv/bench/installed ## measure speed on IMAGES and write docs/benchmarks.md
	@tests/install-system-packages
	@$(BIN)/python -m bench.report $(IMAGES) $(QUICK)

# A virtual environment of its own: the peers bring some 150 libraries.
.venv/bench/installed: bench/requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -m venv .venv/bench
	@.venv/bench/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement $<
	@touch $@

# The Lambda functions' package, a folder: template.yaml names it, `cxr deploy` zips it.
lambda: $(LIBRARIES) ## build the package of the Lambda functions
	@rm -rf $(addprefix $(LAMBDA)/,ec2_runner handlers pipeline)
	@tar -cf - --exclude=__pycache__ ec2_runner handlers pipeline | tar -xf - -C $(LAMBDA)

$(LIBRARIES): handlers/requirements.txt constraints.txt | .venv/runtime
	@rm -rf $(LAMBDA) $(LAMBDA).*
	@$(PIP) --no-compile --target $(LAMBDA) --only-binary=:all: --implementation cp --python-version $(LAMBDA_PYTHON) \
		--platform $(LAMBDA_PLATFORM) --requirement handlers/requirements.txt
	@find $(LAMBDA) -depth -type d -name tests -exec rm -rf {} +
	@rm -rf $(LAMBDA)/bin
	@touch $@

clean: ## remove what was installed and built
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
