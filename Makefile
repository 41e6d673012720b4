# Everything a developer types. `make demo` and `make test` set up whatever they need by themselves.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first interpreter of a supported version; `make PYTHON=python3.12 …` chooses another.
supported = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
find_python = $(shell for p in $(1); do if $$p -c '$(supported)' 2>/dev/null; then echo $$p; break; fi; done)
ifndef PYTHON
PYTHON := $(call find_python,python3 python3.13 python3.12 python3.11)
endif
PYTHON_VERSION := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))

BIN := .venv/bin
CONSTRAINTS := constraints/$(PYTHON_VERSION).txt
ifeq ($(wildcard $(CONSTRAINTS)),)
$(error Python 3.11, 3.12 or 3.13 is needed$(if $(PYTHON_VERSION), but $(PYTHON) is $(PYTHON_VERSION)); name one with make PYTHON=...)
endif
STAMP := .venv/.installed-$(PYTHON_VERSION)
EXTRAS := airflow,cli,fast,postgres,redis,s3,sandbox
ENGINES := dask,ray,spark
# Dependency groups need pip 25.1 or newer.
PIP := pip==26.3
BUILD_TOOLS := --group build

# An environment with what the wheel itself asks for and no more: the packaging tests install into it.
PLAIN := .venvs/plain
PLAIN_STAMP := $(PLAIN)/.installed-$(PYTHON_VERSION)

# Airflow 2.11 runs on Python up to 3.12, so with a newer one an older interpreter is looked for.
PYTHON_211 := $(if $(filter 3.11 3.12,$(PYTHON_VERSION)),$(PYTHON),$(call find_python,python3.12 python3.11))
PYTHON_211_VERSION := $(if $(PYTHON_211),$(shell $(PYTHON_211) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
CONSTRAINTS_211 := constraints/airflow-2.11-py$(PYTHON_211_VERSION).txt
VENV_211 := .venvs/airflow-2.11
STAMP_211 := $(VENV_211)/.installed-$(PYTHON_211_VERSION)

# How tests are run: CI measures coverage with RUNNER="coverage run -m pytest".
RUNNER ?= pytest
PYTEST_ARGS ?=
UNIT := -m "not e2e and not engines and not packaging"

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z0-9.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: demo
demo: $(STAMP) ## a real Airflow runs the example DAG against the sandbox (KEEP=1 leaves the UI running)
	@$(BIN)/python scripts/demo.py $(if $(KEEP),--keep)

.PHONY: stop
stop: $(STAMP) ## end what `make demo KEEP=1` left running
	@$(BIN)/python scripts/demo.py --stop

.PHONY: test
test: $(STAMP) $(PLAIN_STAMP) ## all tests, on two processes
	$(BIN)/python -m $(RUNNER) -n 2 --dist loadgroup $(PYTEST_ARGS)

.PHONY: unit
unit: $(STAMP) ## the tests that start no Airflow processes and build no wheel
	$(BIN)/python -m $(RUNNER) -n 2 --dist loadgroup $(UNIT) $(PYTEST_ARGS)

.PHONY: matrix matrix-3.3 matrix-2.11
matrix: matrix-3.3 matrix-2.11 ## unit tests and every example DAG, on Airflow 3.3 and on Airflow 2.11

matrix-3.3: unit

ifeq ($(PYTHON_211),)
matrix-2.11:
	@echo "skipped: Airflow 2.11 has no release for Python $(PYTHON_VERSION), and no python3.12 or python3.11 was found"
else
matrix-2.11: $(STAMP_211)
	$(VENV_211)/bin/python -m pytest -n 2 --dist loadgroup $(UNIT) $(PYTEST_ARGS)
endif

.PHONY: engines
engines: $(STAMP) ## the batch function on real Spark, Ray and Dask clusters
	$(BIN)/python -m pytest tests/engines $(PYTEST_ARGS)

.PHONY: chaos
chaos: $(STAMP) ## kill runs 250 times (SQLite and PostgreSQL) and compare what is left with what was charged
	$(BIN)/python -m tests.chaos --kills 200
	$(BIN)/python -m tests.chaos --kills 50 --database postgresql

.PHONY: lint
lint: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: docs
docs: $(STAMP) ## the documentation, warnings as errors, into docs/_build/html
	AIRFLOW_HOME=$(CURDIR)/docs/_build/airflow $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: setup
setup: $(STAMP) $(PLAIN_STAMP) $(if $(PYTHON_211),$(STAMP_211)) ## install everything that the other targets need

# $(1) folder, $(2) interpreter, $(3) its version: a virtual environment of that version, with a known pip.
define create_venv
	@$(1)/bin/python -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(3)")' 2>/dev/null || $(2) -m venv --clear $(1)
	@$(1)/bin/python -m pip install -q --disable-pip-version-check "$(PIP)"
endef

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@echo "Installing into .venv (Python $(PYTHON_VERSION)); this takes a minute or two, once."
	$(call create_venv,.venv,$(PYTHON),$(PYTHON_VERSION))
	@$(BIN)/python -m pip install -q -c $(CONSTRAINTS) $(BUILD_TOOLS)
	@$(BIN)/python -m pip install -q -c $(CONSTRAINTS) --no-build-isolation --group test --group dev --group docs -e '.[$(EXTRAS),$(ENGINES)]'
	@touch $@

$(PLAIN_STAMP): $(STAMP)
	@echo "Installing into $(PLAIN): the wheel's own dependencies, without Airflow."
	$(call create_venv,$(PLAIN),$(PYTHON),$(PYTHON_VERSION))
	@rm -rf $(PLAIN)/wheel
	@$(BIN)/python -m build -q --no-isolation --wheel --outdir $(PLAIN)/wheel .
	@$(PLAIN)/bin/python -m pip install -q -c $(CONSTRAINTS) "$$(echo $(PLAIN)/wheel/*.whl)[sandbox]"
	@touch $@

$(STAMP_211): pyproject.toml $(CONSTRAINTS_211)
	@echo "Installing into $(VENV_211) (Python $(PYTHON_211_VERSION)); this takes a minute or two, once."
	$(call create_venv,$(VENV_211),$(PYTHON_211),$(PYTHON_211_VERSION))
	@$(VENV_211)/bin/python -m pip install -q -c $(CONSTRAINTS_211) --group test -e '.[$(EXTRAS)]'
	@touch $@

.PHONY: constraints
constraints: $(STAMP) ## resolve the newest versions anew and pin them in constraints/
	@$(PYTHON) -m venv .venvs/uv && .venvs/uv/bin/python -m pip install -q uv
	@for version in 3.11 3.12 3.13; do \
	  .venvs/uv/bin/uv pip compile -q --upgrade pyproject.toml --all-extras --group test --group dev --group docs \
	    --python-version $$version --no-annotate --no-header -o constraints/$$version.txt; \
	done
	@for version in 3.11 3.12; do \
	  .venvs/uv/bin/uv pip compile -q --upgrade pyproject.toml --all-extras --group test \
	    --override constraints/airflow-2.11.in --python-version $$version --no-annotate --no-header \
	    -o constraints/airflow-2.11-py$$version.txt; \
	done

.PHONY: clean
clean: ## remove what the targets above made, environments included
	rm -rf .venv .venvs build dist docs/_build demo-output .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
