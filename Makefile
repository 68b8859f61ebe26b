# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
LONGEST := engine/test_ray runs/test_run runs/test_every_key upkeep/test_verify runs/test_lineage \
	orchestration/test_orchestrate engine/test_interruption
TESTS := $(LONGEST:%=tests/pipelines/%.py) tests  # the longest files first

.PHONY: demo real test types bench models docs clean

demo: .venv/installed
	$(BIN)/latentflow demo --out runs/demo

real: .venv/installed
	$(BIN)/latentflow demo --real --out runs/real

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

types: .venv/tested
	$(BIN)/mypy

docs: .venv/tested
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/installed
	$(BIN)/python -m benchmarks

models: .venv/installed
	$(BIN)/python -m pipelines.training --work runs/training

.venv/installed: requirements.txt setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/tested: requirements-test.txt .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

clean:
	rm -rf .venv build *.egg-info
