# Every target installs what it needs into .venv first; `make demo` works without a network once that is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN_STAMP := $(VENV)/.installed-to-run
JOBS ?= 2
# Test processes at once. Each file stays in one process, so that its fixtures are made once.
PARALLEL := -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo lint types test test-slow test-kill test-gpu test-browser test-lowest test-newest coverage ablation baselines bench scoreboard bench-gpu docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# $(call installed,WHAT): install into .venv, with the progress of pip. The exact versions that were tested are used where
# they were tested; any other Python gets the ranges of pyproject.toml.
define installed
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tune_lnl needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	@if $(PYTHON) -c 'import sys, platform; sys.exit((sys.version_info[:2], sys.platform, platform.machine()) != ((3, 11), "linux", "x86_64"))'; \
	then set -x; $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '$(1)'; \
	else echo "note: constraints.txt was tested on Python 3.11, Linux x86-64; installing from the ranges of pyproject.toml"; \
	     $(BIN)/python -m pip install --disable-pip-version-check -e '$(1)'; fi
endef

$(STAMP): pyproject.toml constraints.txt
	@echo "installs into $(VENV): about 7 GB, most of it PyTorch with CUDA; 5 to 40 minutes, by the network and the disk"
	$(call installed,.[dev])
	touch $(RUN_STAMP) $(STAMP)

$(RUN_STAMP): pyproject.toml constraints.txt
	@echo "installs into $(VENV): about 6 GB, most of it PyTorch with CUDA; 5 to 40 minutes, by the network and the disk"
	$(call installed,.)
	touch $(RUN_STAMP)

install: $(STAMP)  ## set up .venv with everything, tests included

demo: $(RUN_STAMP)  ## search on the built-in digits; plain, published and searched setting on fresh seeds
	$(BIN)/python benchmarks/demo.py

lint: $(STAMP)  ## ruff and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

test: lint types  ## lint, types and the fast tests
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not kill and not gpu"

test-slow: $(STAMP)  ## the long tests
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not kill and not gpu and not browser"

test-kill: $(STAMP)  ## kill -9 and signals at fifty random moments; wants an otherwise idle machine
	$(BIN)/python -m pytest -m kill

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

# Fails where the browser is missing. axe-core looks for barriers; it is fetched from npm and not part of the project.
AXE := build/axe/package/axe.min.js
$(AXE):
	@command -v npm >/dev/null || { echo "make test-browser needs npm, to fetch axe-core: apt-get install npm"; exit 1; }
	mkdir -p build/axe
	cd build/axe && npm pack --silent axe-core@4.14.1 && tar -xzf axe-core-4.14.1.tgz

test-browser: $(STAMP) $(AXE)  ## the pages in Chromium: errors, network, barriers, sorting, copying, printing
	TUNE_LNL_BROWSER=required $(BIN)/python -m pytest -m browser tests/reporting/test_browser.py

# Both make an environment of several GB anew. A bound of pyproject.toml is a version that test-lowest was run with.
test-lowest:  ## the fast tests and a search with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install -q --disable-pip-version-check -c constraints-lowest.txt -e '.[dev]'
	$(call tested,.venv-lowest)

test-newest:  ## the same with the newest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install -q --disable-pip-version-check --upgrade -e '.[dev]'
	$(call tested,.venv-newest)

define tested
$(1)/bin/python -m pip list --disable-pip-version-check | grep -iE '^(ray|optuna|torch|torchvision|numpy|scipy|pydantic|pyarrow|pandas) '
$(1)/bin/python -m pytest $(PARALLEL) -m "not slow and not kill and not gpu"
folder=$$(mktemp -d) && $(1)/bin/python -m tune_lnl.search act_digits8no --trials 2 --epochs 4 --concurrent 1 --no-dashboard --results-dir $$folder && rm -r $$folder
endef

coverage: $(STAMP)  ## the fast tests, and the share of lines that they reach in each file
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not kill and not gpu" --cov=tune_lnl --cov-report=term

ablation: $(STAMP)  ## ACT's modules one by one on the digits, five seeds each
	$(BIN)/python benchmarks/ablation.py

baselines: $(STAMP)  ## cross-entropy, Co-teaching, JoCoR and ACT on the digits, five seeds each
	$(BIN)/python benchmarks/baselines.py

bench: $(STAMP)  ## speed on the CPU, one table: a training step, the engine, ranking, memory; wants an otherwise idle machine
	$(BIN)/python benchmarks/bench.py

scoreboard: $(STAMP)  ## searches replayed on recorded trainings, ours beside other packages'; TABLES=DIR: on those tables
	$(BIN)/python benchmarks/testbeds/rivals.py
	$(BIN)/python benchmarks/scoreboard.py --engines all --keep build/scoreboard.jsonl --json build/scoreboard.json $(if $(TABLES),--tables $(TABLES))

bench-gpu: $(STAMP)  ## all that is to be measured on a CUDA device, in ten minutes
	$(BIN)/python benchmarks/gpu_visit.py

docs: $(STAMP)  ## docs/settings.md and docs/commands.md again, from the code
	$(BIN)/python docs/make_settings.py

clean:  ## remove the environment and caches
	rm -rf $(VENV) .venv-lowest .venv-newest .venv-rivals build .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
