# make train     environment (first time), then python train.py model=msmace data=cpd_200; ARGS="seed=2" adds overrides
# make test      environment (first time), then every test a machine without a GPU can run, in two processes (JOBS=N)
# make lint      style, format, types, layers
# make install   the environment alone
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
JOBS ?= 2
ARGS ?=
BIN := $(VENV)/bin

.PHONY: train test lint install clean

train: install
	$(BIN)/python train.py model=msmace data=cpd_200 $(ARGS)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed

# torch first: torch-scatter is compiled against it, for the CPU (on CUDA torch's own segment sums serve). Two compilers at a time halve that step.
$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py $(wildcard msmlff/native/sources/*) $(wildcard msmlff/native/sources/*/*)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	@command -v $${CXX:-c++} > /dev/null || { echo "A C++ compiler is needed to build torch-scatter (Debian: apt install g++)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel
	@echo 'installing torch'
	$(BIN)/pip install --quiet $(TORCH) numpy -c constraints.txt
	@echo 'compiling torch-scatter (some minutes)'
	FORCE_ONLY_CPU=1 DIST_EXTRA_CONFIG='$(CURDIR)/scripts/build_ext.cfg' $(BIN)/pip install --quiet --no-build-isolation torch-scatter==2.1.2
	$(BIN)/pip install --quiet -e '.[dev]' -c constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
