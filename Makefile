# Everything runs in .venv, which `setup` makes on a machine that has only Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export HF_HUB_OFFLINE = 1
export DS_ACCELERATOR = cpu
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PHOTOS := .venv/face-photos
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: setup demo demo-quick evidence studies test lint type test-slow test-hostile full-size test-browser bench reference docs bench-faces tinyworld clean

setup: $(STAMP)  ## make .venv with the command `idgrpo` inside

$(STAMP): pyproject.toml constraints.txt
	@echo "== installing idgrpo and what it needs into .venv (about 6 GB, minutes)"
	$(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: setup  ## the whole loop on the embedded world; README says how long it took
	$(BIN)/idgrpo demo

demo-quick: setup  ## the same steps, small: at most 3 minutes
	$(BIN)/idgrpo demo --quick

evidence: setup  ## three seeds with fresh people and noise; writes demo-output/evidence.md
	$(BIN)/idgrpo demo --evidence

studies: demo  ## every study of examples/studies, with three seeds (hours); goes on where it was
	for file in examples/studies/*.toml; do $(BIN)/idgrpo study $$file --store demo-output/full/store --nproc 2 --quiet || exit; done
	$(BIN)/idgrpo study examples/studies/methods.toml --base tiny-vace --name methods-tiny-vace --store demo-output/full/store --nproc 2 --quiet

test: setup lint type  ## every default test
	@echo "== tests"
	$(PYTEST) -n 2 -q

lint: setup
	@echo "== lint"
	$(BIN)/ruff check src tests docs/generate.py
	$(BIN)/ruff format --check src tests docs/generate.py

type: setup
	@echo "== types"
	$(BIN)/mypy

test-slow: setup  ## long tests and those with several processes
	$(PYTEST) -q -m "slow or dist" --timeout 1800

test-hostile: setup  ## 1,000 kills (IDGRPO_KILLS, IDGRPO_KILL_SEED) and 8,000 damaged files (IDGRPO_MUTANTS); about an hour
	$(PYTEST) -q -s -m hostile --timeout 14400

full-size: setup  ## every stage on random weights of the public sizes: 30 GB of disk, 24 GB of memory, two hours on 2 cores; goes on where it was
	$(BIN)/python -m tests.full_size --folder $(or $(FOLDER),full-size)

test-browser: setup  ## needs Chromium and its driver from the system's packages
	$(PYTEST) -q -m browser --timeout 900

bench: setup  ## measurements; prints ratios
	$(PYTEST) -q -s -m bench --timeout 3600

reference: setup  ## write docs/reference/ again from the code
	$(BIN)/python docs/generate.py

docs: reference  ## build the documentation into site/; broken links fail
	$(PIP) install -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench-faces: setup  ## real photographs, a real recognition network: measures and distortions (about half an hour)
	@echo "== installing what only this bench needs into .venv: dlib's network and photographs that packages ship"
	$(PIP) install --no-deps dlib-bin==20.0.1.post1 face-recognition-models==0.3.0 mahotas==1.4.19
	test -d $(PHOTOS)/face_recognition-1.3.0 || \
		($(PIP) download --no-deps --no-binary :all: -d $(PHOTOS) face-recognition==1.3.0 && \
		tar -xzf $(PHOTOS)/face_recognition-1.3.0.tar.gz -C $(PHOTOS))
	$(PYTEST) -q -m bench tests/bench/test_faces.py -o log_cli=true --timeout 7200

tinyworld: setup  ## train the shipped tiny checkpoints again (hours: about 5 by the seconds a step seen on 2 cores)
	$(BIN)/python -m idgrpo.tinyworld.training.all

clean:
	rm -rf .venv idgrpo-store demo-output dist site .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
