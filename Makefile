# make help shows the targets.
SHELL := bash
VENV ?= .venv
MODEL ?= smollm2
PROMPT ?= The capital of France is
BIN := $(VENV)/bin
export VENV MODEL PROMPT

UNIT := not slow and not gpu and not compose and not soak

.DEFAULT_GOAL := help
.PHONY: help venv setup prepare run lint format test test-all e2e-compose soak clean

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

venv: ## create the environment (.venv) with all that is needed to run, develop and test
	@scripts/make_venv

prepare: venv ## get the model (SmolLM2-135M) and prepare the Wasm runtime for Python inferlets
	@$(BIN)/pie model pull $(MODEL) >/dev/null
	@$(BIN)/pie runtime prepare >/dev/null

setup: prepare ## everything above

run: venv ## PROMPT="...": start a stack, stream the answer, stop what was started
	@scripts/run_once

lint: venv ## ruff (rules and format) and pyright (strict)
	@$(BIN)/ruff check --output-format concise
	@$(BIN)/ruff format --check
	@$(BIN)/pyright

format: venv ## let ruff fix and format what it can
	@$(BIN)/ruff check --fix --output-format concise
	@$(BIN)/ruff format

test: prepare lint ## set up, check and run the tests (less than 10 minutes on two cores)
	@$(BIN)/pytest -m "$(UNIT)" --durations 10

test-all: prepare ## the slower tier, to be run after make test
	@$(BIN)/pytest -m "slow and not gpu and not compose and not soak" --timeout 900

soak: prepare ## tests that run for minutes to find leaks
	@$(BIN)/pytest -m soak --timeout 3600

e2e-compose: venv ## the stack as containers, with whatever `docker compose` is on PATH
	@$(BIN)/pytest -m compose --timeout 1800 tests/compose

clean: ## remove the environment and all caches of the checkout (models stay in the Pie home)
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist build
	@find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
