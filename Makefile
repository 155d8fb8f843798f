# Every target installs what it needs into .venv first; `make demo` works without a network once that is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo lint types test test-slow test-kill test-gpu ablation baselines bench bench-gpu docs clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The exact versions that were tested are used where they were tested; any other Python gets the ranges of pyproject.toml.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tune_lnl needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	@if $(PYTHON) -c 'import sys, platform; sys.exit((sys.version_info[:2], sys.platform, platform.machine()) != ((3, 11), "linux", "x86_64"))'; \
	then set -x; $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	else echo "note: constraints.txt was tested on Python 3.11, Linux x86-64; installing from the ranges of pyproject.toml"; \
	     $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'; fi
	touch $(STAMP)

install: $(STAMP)  ## set up .venv with everything, tests included

demo: $(STAMP)  ## search on the built-in digits and compare the best config with plain training
	$(BIN)/python benchmarks/demo.py

lint: $(STAMP)  ## ruff and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

test: lint types  ## lint, types and the fast tests
	$(BIN)/python -m pytest -m "not slow and not kill and not gpu"

test-slow: $(STAMP)  ## the long tests
	$(BIN)/python -m pytest -m "slow and not kill and not gpu"

test-kill: $(STAMP)  ## kill -9 and signals at fifty random moments; wants an otherwise idle machine
	$(BIN)/python -m pytest -m kill

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

ablation: $(STAMP)  ## ACT's modules one by one on the digits, five seeds each
	$(BIN)/python benchmarks/ablation.py

baselines: $(STAMP)  ## cross-entropy, Co-teaching, JoCoR and ACT on the digits, five seeds each
	$(BIN)/python benchmarks/baselines.py

bench: $(STAMP)  ## speed on the CPU, one table: a training step, the engine, ranking, memory; wants an otherwise idle machine
	$(BIN)/python benchmarks/bench.py

bench-gpu: $(STAMP)  ## speed and peak memory on a CUDA device
	$(BIN)/python benchmarks/throughput_gpu.py

docs: $(STAMP)  ## docs/settings.md and docs/commands.md again, from the code
	$(BIN)/python docs/make_settings.py

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
