# Set-up, tests and the rest in one word each. Every target makes $(VENV) by itself and works in it; the plain command stands under the target
# (after `. .venv/bin/activate`, or with .venv/bin/ before it). Set-up runs again only when pyproject.toml or constraints.txt has changed.
#
#   make demo DATA=my-texts/                          the demo on your own text
#   make demo PYTHON=python3.12                       another Python (3.11 to 3.13)
#   make demo TORCH_PIP_ARGS="--index-url …"          another build of PyTorch: https://pytorch.org/get-started/locally/
#   make demo VENV=$$VIRTUAL_ENV                       an environment that you have; a PyTorch in it that is new enough stays

PYTHON ?= python3
VENV ?= .venv
TORCH_PIP_ARGS ?=
DATA ?=
BIN = $(VENV)/bin
TORCH_RANGE = 2.10
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu lint types layers docs bench records clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.developer  ## the environment for tests, types and docs

demo: $(VENV)/.core  ## train, sample, break three ways, report: four minutes, offline
	$(BIN)/underhood demo $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.developer  ## the tests that take under ten seconds each
	$(BIN)/python -m pytest -n auto --maxprocesses 8 -m "not slow and not gpu"

test-slow: $(VENV)/.developer  ## the others: fuzzing, many kills, tiny projects
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(VENV)/.developer  ## the tests that need a GPU
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/.developer  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developer  ## strict types
	$(BIN)/mypy

layers: $(VENV)/.developer  ## imports point down
	$(BIN)/lint-imports

docs: $(VENV)/.developer  ## the site, in build/site/
	$(BIN)/python -m underhood.workbench.site
	$(BIN)/zensical build -f build/zensical.toml --clean --strict

bench: $(VENV)/.developer  ## the benchmarks; quiet machine, please
	set -e; for file in bench/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

records: $(VENV)/.developer  ## are the committed measurements still those of this code?
	$(BIN)/underhood records check

clean:  ## remove what was built; the environment and runs/ stay
	rm -rf build dist .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# The environment. torch goes first, by itself, so that its build can be chosen; one that is installed and in range is kept.

define python_check
import sys
ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
sys.exit(None if ok else "underhood needs Python 3.11, 3.12 or 3.13; this one is %d.%d. Name another: make PYTHON=python3.12" % sys.version_info[:2])
endef

define torch_check
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    found = version("torch")
except PackageNotFoundError:
    sys.exit(1)
sys.exit(tuple(map(int, found.split(".")[:2])) < tuple(map(int, sys.argv[1].split("."))))
endef
export python_check torch_check

$(VENV)/.core: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) here. Name a Python from 3.11 to 3.13: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c "$$python_check"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "$$torch_check" $(TORCH_RANGE) || { \
	  echo "Fetching PyTorch: about 200 MB for the CPU build; a build with CUDA brings several GB. To choose: https://pytorch.org/get-started/locally/"; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH_PIP_ARGS) -c constraints.txt torch; }
	@echo "Installing underhood …"
	@grep -v '^torch==' constraints.txt > $(VENV)/.constraints
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c $(VENV)/.constraints -e .
	@touch $@

$(VENV)/.developer: $(VENV)/.core
	@echo "Fetching the developers' tools: about 150 MB"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c $(VENV)/.constraints -e '.[dev,hf,fast,serve,docs,notebook]'
	@touch $@
