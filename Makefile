# `make serve` is all a user needs. `.ci/run` runs the targets that the project's checks consist of, and nothing else.

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough; name another with `make PYTHON=/path/to/python3`.
PYTHON ?= $(shell for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$candidate && break; done)
# Half of what tests do is waiting for processes. A file stays together: its tests share what is dear to start. In their order, since
# the long files come first then, and at the end there are short ones to fill both processes.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder
PROTOS := $(wildcard protos/v1/*.proto)
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I.

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-fast test-large chaos lint types format protos check-protos docs bench bench-peers first-answers quality dist clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.dev-installed ## Install everything that development needs into .venv.

serve: $(VENV)/.installed ## Serve the default model at http://127.0.0.1:8000; more with ARGS="--model … --port …".
	@$(BIN)/pagoda serve $(ARGS)

test: $(VENV)/.dev-installed ## Run all tests; some start the real system with the real model.
	$(BIN)/pytest $(PARALLEL) $(ARGS)

test-fast: $(VENV)/.dev-installed ## Run the tests that need no model.
	$(BIN)/pytest $(PARALLEL) -m "not e2e" $(ARGS)

test-large: $(VENV)/.dev-installed ## Run the tests that fetch further models, and all of `pip install 'pagoda-llm[all]'`.
	$(BIN)/pytest -m large $(ARGS)

chaos: $(VENV)/.dev-installed ## Fail gateways, schedulers, workers and Redis under load for five minutes (ARGS="--duration 600 --seed 7").
	@$(BIN)/python -m tests.chaos $(ARGS)

lint: $(VENV)/.dev-installed ## Check style, format, and which tier imports which.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev-installed ## Check types.
	$(BIN)/mypy

format: $(VENV)/.dev-installed ## Bring the code into the one format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(VENV)/.dev-installed ## Generate the Python of the contracts.
	$(PROTOC) --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $(PROTOS)

check-protos: $(VENV)/.dev-installed ## Fail if the generated Python is not what the contracts say.
	@generated=$$(mktemp -d) && trap 'rm -rf "$$generated"' EXIT && \
	$(PROTOC) --python_out=$$generated --grpc_python_out=$$generated --mypy_out=quiet:$$generated \
		--mypy_grpc_out=quiet:$$generated $(PROTOS) && \
	for file in $$(cd $$generated && find . -type f); do \
		cmp "$$generated/$$file" "$$file" || { echo "run 'make protos'"; exit 1; }; \
	done && echo "The generated Python is what the contracts say."

docs: $(VENV)/.dev-installed ## Generate the pages of docs/ that are made from the code.
	$(BIN)/python -m gateway.api_fields > docs/api-fields.md

bench: $(VENV)/.dev-installed ## Measure a running server (URL=http://…/v1), or one started for it and then its tiers.
	@$(BIN)/python -m bench server $(if $(URL),--url $(URL)) $(ARGS)
ifeq ($(URL)$(ARGS),)
	@for what in gateway scheduler shares; do $(BIN)/python -m bench $$what || exit 1; done
endif

bench-peers: $(VENV)/.dev-installed ## Measure Pagoda beside llama.cpp and vLLM, which are installed into .peers (once, 10 min).
	@$(BIN)/python -m bench peers $(ARGS)

first-answers: $(VENV)/.dev-installed ## Ask the default model ten everyday questions as it is served, and write its answers to bench/results/.
	@$(BIN)/python -m bench first-answers --output bench/results/first-answers.md $(ARGS)

quality: $(VENV)/.installed ## Measure what each numeric mode costs in quality, or a running server's (ARGS="--url http://…/v1").
	@$(BIN)/python -m bench.quality $(ARGS)

dist: $(VENV)/.dev-installed ## Build a release into dist/: the source distribution, and the wheel from it.
	rm -rf dist
	$(BIN)/python -m build

clean: ## Remove .venv and everything generated outside version control. Models stay.
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A checkout may still be installed under the old name, `pagoda`. It goes first: both names own the same command.
define install
$(BIN)/python -m pip uninstall --quiet --quiet --yes pagoda
$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(1)]'
endef

# The stamps are older than pyproject.toml when dependencies changed: then, and only then, pip runs.
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
