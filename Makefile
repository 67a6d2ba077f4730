# make train | test | lint | install | clean. A virtual environment is made in .venv on first use.
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= doors.yaml
EXTRAS ?= learner,mlflow,dev

BIN := $(VENV)/bin
STAMP := $(VENV)/.lamer-installed
CONSTRAINTS := $(if $(shell command -v nvidia-smi 2>/dev/null),,constraints-cpu.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: train test lint install clean
.DEFAULT_GOAL := train

train: install
	@$(BIN)/lamer train -c $(CONFIG)

test: install
	@$(BIN)/python -m pytest -q

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . && echo "ruff format: ok"
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/architecture

install: $(STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing lamer[$(EXTRAS)] into $(VENV)$(if $(CONSTRAINTS), with the versions of $(CONSTRAINTS))"
	@$(BIN)/python -m pip install --quiet --quiet --editable '.[$(EXTRAS)]' $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	@touch $@

clean:
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
