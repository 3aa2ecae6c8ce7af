# `make help` lists the targets. Everything happens in .venv, made on first use and kept until pyproject.toml changes.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
# Bytecode is compiled when a module is first imported, not for all of torch at install.
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
WORKERS ?= 2
# One thread a worker: two workers with two threads each on two cores are slower than one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help train test check test-slow test-projects test-lowest format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[cli,plots]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.train

train: $(VENV)/.train  ## set up .venv and run the main job; ARGS='model=cnn' overrides its config
	@$(BIN)/gradtools-train $(ARGS)

check: $(VENV)/.dev  ## format, lint, types and layer contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## set up .venv and run everything a merge needs
	$(PYTEST) -m "not slow and not projects" $(ARGS)

test-slow: $(VENV)/.dev  ## the tests that are too long for every merge
	$(PYTEST) -m slow $(ARGS)

test-projects:  ## our callbacks in models of other people's packages, in a .venv-projects
	$(PYTHON) -m venv .venv-projects
	.venv-projects/bin/python -m pip install --quiet --no-compile --disable-pip-version-check \
	  -c constraints.txt -c scripts/projects/requirements.txt -e '.[dev]' timm torch-geometric transformers
	OMP_NUM_THREADS=1 .venv-projects/bin/python -m pytest -m projects $(ARGS)

test-lowest:  ## the tests on the lowest releases allowed, torch apart, in a .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --no-compile --disable-pip-version-check \
	  -c constraints-lowest.txt -e '.[dev]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n $(WORKERS) -m "not slow and not projects" $(ARGS)

format: $(VENV)/.dev  ## apply the formatter and the linter's fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv, caches and build products; outputs/ stays
	rm -rf $(VENV) .venv-lowest .venv-projects build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
