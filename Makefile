# make train | test | lint | fuzz | figures | install | clean. A virtual environment is made in .venv on first use.
# All but train and clean also install ALFWorld's engine, which is built for some minutes; `make ALFWORLD= ...` leaves it out.
# make sglang-cpu | test-sglang: SGLang on a machine without a GPU, in a virtual environment of its own; test-sglang-all
# also runs the tests marked slow.
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= doors.yaml
EXTRAS ?= learner,mlflow,webshop,dev
ALFWORLD ?= yes
# Test processes: one for whole runs, the others for the rest.
WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.lamer-installed
ALFWORLD_STAMP := $(VENV)/.alfworld-installed
SGLANG_VENV := .venv-sglang
SGLANG_CPU := deploy/inference/sglang_cpu
SGLANG_STAMP := $(SGLANG_VENV)/.sglang-installed
CONSTRAINTS := $(if $(shell command -v nvidia-smi 2>/dev/null),,constraints-cpu.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# make fuzz attacks a gateway with mutated frames and an engine with odd bodies, so many of them.
FRAMES ?= 1000000
BODIES ?= 100000
# make figures writes the figures that README and docs quote anew, from docs/results and docs/benchmarks.
.PHONY: train test lint fuzz figures install clean sglang-cpu test-sglang test-sglang-all
.DEFAULT_GOAL := train

train: $(STAMP)
	@$(BIN)/lamer train -c $(CONFIG)

test: install
	@$(BIN)/pytest -q -m 'not sglang and not slow' --durations=10 -n $(WORKERS) --no-loadscope-reorder

test-sglang: install sglang-cpu
	@$(SGLANG_VENV)/bin/python -c "from importlib.metadata import version; print('SGLang', version('sglang'))"
	@$(BIN)/pytest -q -m 'not sglang' tests/contract
	@$(BIN)/pytest -q -m 'sglang and not slow' --durations=10

test-sglang-all: install sglang-cpu
	@$(BIN)/pytest -q -m sglang --durations=10

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . && echo "ruff format: ok"
	@$(BIN)/mypy
	@$(BIN)/pytest -q tests/architecture

fuzz: install
	@$(BIN)/python -m tests.fuzz --frames $(FRAMES) --bodies $(BODIES)

figures: $(STAMP)
	@$(BIN)/python -m lamer.deploy.experiments.quotes

install: $(STAMP) $(if $(ALFWORLD),$(ALFWORLD_STAMP))

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing lamer[$(EXTRAS)] into $(VENV)$(if $(CONSTRAINTS), with the versions of $(CONSTRAINTS))"
	@$(BIN)/python -m pip install --quiet --quiet --editable '.[$(EXTRAS)]' $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	@touch $@

$(ALFWORLD_STAMP): envs/alfworld/requirements.txt $(STAMP)
	@echo "installing ALFWorld's engine into $(VENV): its planner is built, which takes some minutes"
	@{ $(BIN)/python -m pip install --quiet --quiet --editable '.[alfworld]' $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) \
		&& $(BIN)/python -m pip install --quiet --quiet --no-deps --requirement $< && touch $@; } \
		|| echo "ALFWorld's engine can't be installed (it needs a C++ compiler, cmake and the package index): its tests are skipped" >&2

sglang-cpu: $(SGLANG_STAMP)

$(SGLANG_STAMP): $(SGLANG_CPU)/requirements.txt $(wildcard $(SGLANG_CPU)/stand_ins/*/*.py)
	@test -x $(SGLANG_VENV)/bin/python || { echo "creating $(SGLANG_VENV)"; $(PYTHON) -m venv $(SGLANG_VENV); }
	@echo "installing SGLang for the CPU into $(SGLANG_VENV)"
	@$(SGLANG_VENV)/bin/python -m pip install --quiet --quiet --no-deps --requirement $(SGLANG_CPU)/requirements.txt \
		|| { echo "SGLang can't be installed from $(SGLANG_CPU)/requirements.txt: it needs Linux on x86-64, Python 3.11" \
		"(make PYTHON=...) and the package index; nothing was tested against it" >&2; exit 1; }
	@cp -r $(SGLANG_CPU)/stand_ins/. "$$($(SGLANG_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@touch $@

clean:
	@rm -rf build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
