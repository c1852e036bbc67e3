# Everything runs in .venv, which `setup` makes on a machine that has only Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export HF_HUB_OFFLINE = 1
export DS_ACCELERATOR = cpu
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: setup demo demo-quick evidence test lint type test-slow test-hostile test-browser bench tinyworld clean

setup: $(STAMP)  ## make .venv with the command `idgrpo` inside

$(STAMP): pyproject.toml constraints.txt
	@echo "== installing idgrpo and what it needs into .venv (about 6 GB, minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: setup  ## the whole loop on the embedded world; README says how long it took
	$(BIN)/idgrpo demo

demo-quick: setup  ## the same steps, small: at most 3 minutes
	$(BIN)/idgrpo demo --quick

evidence: setup  ## three seeds with fresh people and noise; writes demo-output/evidence.md
	$(BIN)/idgrpo demo --evidence

test: setup lint type  ## every default test
	@echo "== tests"
	$(PYTEST) -n 2 -q

lint: setup
	@echo "== lint"
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests

type: setup
	@echo "== types"
	$(BIN)/mypy

test-slow: setup  ## long tests and those with several processes
	$(PYTEST) -q -m "slow or dist" --timeout 1800

test-hostile: setup  ## 1,000 kills (IDGRPO_KILLS, IDGRPO_KILL_SEED) and 8,000 damaged files (IDGRPO_MUTANTS); about an hour
	$(PYTEST) -q -s -m hostile --timeout 14400

test-browser: setup  ## needs Chromium and its driver from the system's packages
	$(PYTEST) -q -m browser --timeout 900

bench: setup  ## measurements; prints ratios
	$(PYTEST) -q -s -m bench --timeout 3600

tinyworld: setup  ## train the shipped tiny checkpoints again (hours: about 5 by the seconds a step seen on 2 cores)
	$(BIN)/python -m idgrpo.tinyworld.training.all

clean:
	rm -rf .venv idgrpo-store demo-output dist .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
