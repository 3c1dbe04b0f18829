# Bare `make` prints this help.
.DEFAULT_GOAL := help
HOME_DIR ?= var
R := .venv/bin/regulars

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  make %-12s %s\n", $$1, $$2}'

setup:           ## both environments and the system packages they need
	@scripts/setup.sh

setup-dev:
	@scripts/setup.sh --dev

demo: setup      ## set up, generate a programme, train, export, read a receipt, serve, recommend, stop (8 to 15 minutes, then two)
	@$(R) demo --home $(HOME_DIR)

serve: setup     ## keep serving what the demo made; Ctrl-C stops
	@$(R) serve --home $(HOME_DIR)

test: setup-dev  ## the whole test suite (30 to 40 minutes on 2 cores)
	@.venv/bin/python -m pytest -m "not gpu"

test-quick: setup-dev  ## without the running stack and the public data sets (a few minutes)
	@.venv/bin/python -m pytest -m "not gpu and not e2e and not realdata and not services"

test-gpu: setup-dev    ## what needs an NVIDIA GPU; there a skip is a failure
	@REGULARS_REQUIRE_GPU=1 .venv/bin/python -m pytest -m gpu

bench: setup-dev ## the stack against the baseline and a no-op route
	@.venv/bin/python -m benchmarks.bench_recommend

lint: setup-dev  ## ruff and mypy
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

constraints: setup-dev ## compile constraints.txt anew
	@.venv/bin/uv pip compile -q pyproject.toml --extra serve --extra train --extra vision --group dev --python-version 3.11 \
	  --no-emit-index-url --no-annotate --no-header -o constraints.txt

.PHONY: help setup setup-dev demo serve test test-quick test-gpu bench lint constraints
