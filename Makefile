# `make help` lists the targets. Each target installs what it needs into .venv.

PYTHON ?= python3
BIN := .venv/bin
# Make a virtual environment. venv fails when two rules make .venv at once, one of them as the parent of its own. This
# pip installs in two thirds of the time of the one that comes with Python 3.11; 26.3 shows setuptools' advice to packagers.
venv = mkdir -p .venv && $(PYTHON) -m venv $(1) && $(1)/bin/pip install --quiet --disable-pip-version-check pip==26.0
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
ROOT ?= data
PORT ?= 8000
IMAGES ?= events/samples
SAM := .venv/sam/1.170.0
LAMBDA ?= build/lambda
LAMBDA_PYTHON ?= 3.13
LAMBDA_PLATFORM ?= manylinux2014_x86_64
LIBRARIES = $(LAMBDA).$(LAMBDA_PYTHON)-$(LAMBDA_PLATFORM)

.PHONY: help run test unit install-test system-packages lint types tests fuzz faults soak bench lambda invoke \
	smoke clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/runtime ## start the page with eight synthetic samples
	@test -d $(ROOT)/inbox || (mkdir -p $(ROOT)/inbox && cp events/samples/*-?.* $(ROOT)/inbox/)
	@$(BIN)/cxr up --root $(ROOT) --port $(PORT)

.venv/runtime: pyproject.toml constraints.txt
	@echo "installing into .venv (once; takes about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 run")'
	@$(call venv,.venv)
	@$(PIP) --editable .
	@touch $@

# Libraries are installed without bytecode: Python compiles each on first import, and must be allowed to save the result.
# Otherwise every process that the tests start would compile torch again.
unexport PYTHONDONTWRITEBYTECODE

# Run a stage of the tests and print how long it took.
stage = @start=$$(date +%s); $(2) || exit 1; echo "$(1): $$(($$(date +%s) - start)) s"

test: ## run all checks: style, types and tests; 12 minutes on two cores
	$(call stage,install,$(MAKE) --no-print-directory --jobs=3 install-test)
	$(call stage,lint,$(MAKE) --no-print-directory lint)
	$(call stage,types and tests,$(MAKE) --no-print-directory --jobs=2 types tests)

unit: .venv/tests ## run the tests that need no process, server or browser, in under a minute
	@OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=worksteal -m "not whole"

install-test: .venv/tests $(SAM) system-packages

system-packages:
	@tests/install-system-packages

.venv/tests: pyproject.toml constraints.txt
	@$(call venv,.venv)
	@$(PIP) --no-compile --editable '.[test]'
	@touch $@ .venv/runtime

# SAM gets its own virtual environment: it needs other versions of our libraries.
$(SAM):
	@$(call venv,.venv/sam)
	@.venv/sam/bin/pip install --quiet --disable-pip-version-check --no-compile aws-sam-cli==$(@F)
	@touch $@

lint: ## check style
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

types: ## check types
	@$(BIN)/mypy --no-error-summary

tests:
	@OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder --durations=10

# Damage files at random and judge them, for SECONDS; keep the findings in build/fuzz.
fuzz: SECONDS = 600
fuzz: SEED = 1
fuzz: .venv/tests ## damage files at random and judge them, for SECONDS
	@$(BIN)/python -m tests.support.fuzz --seconds $(SECONDS) --seed $(SEED) --folder build/fuzz

# Fill the disk, lock and damage the worklist, and kill processes under a running `cxr up`, for SECONDS each.
faults: SECONDS = 40
faults: .venv/tests ## break the disk, the worklist and processes under a running page, and count verdicts
	@$(BIN)/python -m bench.soak.faults $(SECONDS)

# Cause faults at random, from SEED, under a page and under a stack, for MINUTES; the report is kept in build/soak.
soak: MINUTES = 10
soak: SEED = 1
soak: .venv/tests ## break everything at random while X-rays come, for MINUTES, and count what is lost
	@tests/install-system-packages
	@$(BIN)/python -m bench.soak --minutes $(MINUTES) --seed $(SEED)

# Measure on the X-rays in the folder IMAGES and write docs/benchmarks.md; QUICK=--quick is a trial run.
bench: .venv/tests .venv/bench/installed ## measure speed on the X-rays in IMAGES and write docs/benchmarks.md
	@tests/install-system-packages
	@$(BIN)/python -m bench.report $(IMAGES) $(QUICK)

# The benchmarks get their own virtual environment: the compared servers need about 150 libraries.
.venv/bench/installed: bench/requirements.txt constraints.txt pyproject.toml
	@$(call venv,.venv/bench)
	@.venv/bench/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement $<
	@touch $@

# Build the package of the Lambda functions as a folder; template.yaml names it, and `cxr deploy` zips it.
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

# Invoke a function as SAM does, in a container, with stand-ins for AWS and the host; docs/aws.md says more.
invoke: .venv/tests $(SAM) ## invoke a function in a container: EVENT=file.json FUNCTION=name INBOX=folder
	@$(BIN)/python -m events.invoke "$(EVENT)" --function "$(FUNCTION)" --inbox "$(INBOX)"

smoke: .venv/tests $(SAM) ## invoke all five functions in containers, with the events in events/
	@$(BIN)/python -m events.smoke

clean: ## remove everything that was installed or built
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
