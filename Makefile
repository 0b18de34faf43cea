# Every target sets up what it needs. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The virtual environment is made anew only when a lock file or the packaging changed.
$(VENV)/.ready: requirements.lock requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Usher needs Python 3.11 or later")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: install
install: $(VENV)/.ready ## make the virtual environment in .venv

.PHONY: run
run: install ## start everything on embedded servers and print where to go
	@exec $(BIN)/usher up $(ARGS)

# Thousands of imports: byte code is kept also where the environment asks for none.
.PHONY: test
test: install ## run the tests, in a process a core and one (ARGS="-n 0 -k name" runs some in one)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: faults
faults: install ## prove the promises of docs/promises.md in short; make test does so too
	$(BIN)/python -m pytest --numprocesses 0 tests/faults $(ARGS)

.PHONY: faults-all
faults-all: install ## prove every promise at full length, by dice of its own (USHER_TEST_SEED=N brings a run back)
	USHER_TEST_FAULTS=all $(BIN)/python -m pytest --numprocesses 0 tests/faults $(ARGS)

.PHONY: check
check: install ## lint, format and type checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: audit-deps
audit-deps: install ## ask a database of known weaknesses about every locked dependency (OSV_URL names another)
	$(BIN)/python -m tests.support.weaknesses

.PHONY: bench
bench: install ## measure, against two ceilings in the same run (ARGS="--quick")
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: soak
soak: install ## half an hour of steady work, then what grew, as slopes (ARGS="--minutes 3 --faults")
	$(BIN)/python -m tests.soak $(ARGS)

.PHONY: lock
lock: install ## pin the dependencies anew, with hashes
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' pyproject.toml --group dev --constraint requirements.lock \
		--output-file requirements-dev.lock
