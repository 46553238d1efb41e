# `make serve` is all that a user needs. `.ci/run` runs the targets that check a change.

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough. To use another one: `make PYTHON=/path/to/python3`.
PYTHON ?= $(shell for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$candidate && break; done)
# Tests run in two processes, because half of their time is waiting. The tests of a file stay together, because they share servers
# that are slow to start. Files keep their order: long ones first, so that short ones fill both processes at the end.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder
PROTOS := $(wildcard protos/v1/*.proto)
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I.

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-fast test-large chaos lint types format protos check-protos docs bench bench-peers first-answers quality dist clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.dev-installed ## Install everything that development needs into .venv.

serve: $(VENV)/.installed ## Serve the default model at http://127.0.0.1:8000. Options: ARGS="--model … --port …".
	@$(BIN)/pagoda serve $(ARGS)

test: $(VENV)/.dev-installed ## Run all tests. Some start the real system with the real model.
	$(BIN)/pytest $(PARALLEL) $(ARGS)

test-fast: $(VENV)/.dev-installed ## Run the tests that need no model.
	$(BIN)/pytest $(PARALLEL) -m "not e2e" $(ARGS)

test-large: $(VENV)/.dev-installed ## Run the tests that download models, other projects' clients, or `pagoda-llm[all]`.
	$(BIN)/pytest -m large $(ARGS)

chaos: $(VENV)/.dev-installed ## Kill gateways, schedulers, workers and Redis under load for five minutes. Options: ARGS="--duration 600 --seed 7".
	@$(BIN)/python -m tests.chaos $(ARGS)

lint: $(VENV)/.dev-installed ## Check style, format and import directions.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev-installed ## Check types.
	$(BIN)/mypy

format: $(VENV)/.dev-installed ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(VENV)/.dev-installed ## Generate the Python code of protos/.
	$(PROTOC) --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $(PROTOS)

check-protos: $(VENV)/.dev-installed ## Check that the generated Python code matches protos/.
	@generated=$$(mktemp -d) && trap 'rm -rf "$$generated"' EXIT && \
	$(PROTOC) --python_out=$$generated --grpc_python_out=$$generated --mypy_out=quiet:$$generated \
		--mypy_grpc_out=quiet:$$generated $(PROTOS) && \
	for file in $$(cd $$generated && find . -type f); do \
		cmp "$$generated/$$file" "$$file" || { echo "run 'make protos'"; exit 1; }; \
	done && echo "The generated Python code matches protos/."

docs: $(VENV)/.dev-installed ## Generate the pages of docs/ that come from the code.
	$(BIN)/python -m gateway.api_fields > docs/api-fields.md

bench: $(VENV)/.dev-installed ## Measure a running server (URL=http://…/v1), or start one and measure it and its tiers.
	@$(BIN)/python -m bench server $(if $(URL),--url $(URL)) $(ARGS)
ifeq ($(URL)$(ARGS),)
	@for what in gateway scheduler shares; do $(BIN)/python -m bench $$what || exit 1; done
endif

bench-peers: $(VENV)/.dev-installed ## Compare Pagoda with llama.cpp and vLLM, which are installed into .peers (once, 10 min).
	@$(BIN)/python -m bench peers $(ARGS)

first-answers: $(VENV)/.dev-installed ## Ask the served default model ten questions, and write the answers to bench/results/.
	@$(BIN)/python -m bench first-answers --output bench/results/first-answers.md $(ARGS)

quality: $(VENV)/.installed ## Measure the quality of each numeric mode, or of a running server (ARGS="--url http://…/v1").
	@$(BIN)/python -m bench.quality $(ARGS)

dist: $(VENV)/.dev-installed ## Build a release into dist/: the source distribution, and the wheel from it.
	rm -rf dist
	$(BIN)/python -m build

clean: ## Remove .venv and all generated files. Models stay.
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A checkout may still be installed under the old name, `pagoda`. It goes first: both names own the same command.
define install
@$(BIN)/python -m pip uninstall --quiet --quiet --yes pagoda
@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(1)]'
endef

# A stamp older than pyproject.toml means that dependencies may have changed. Only then pip runs.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(call install,all)
	@touch $@

$(VENV)/.dev-installed: pyproject.toml | $(BIN)/python
	$(call install,dev)
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Pagoda needs Python 3.11 or newer; found only: $$(python3 --version 2>&1)"; exit 1; }
	@echo "Installing Pagoda's dependencies into $(VENV) (once; some minutes) …"
	@$(PYTHON) -m venv $(VENV)
