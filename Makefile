PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test test-fast test-long check clean

run: $(VENV)/installed
	$(BIN)/python experiments/run.py -m optimizer=mcmc,sgd seed=0
	$(BIN)/python experiments/plot.py outputs/digits

test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" -n 2

test-fast: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" -n 2 --ignore=tests/statistical --ignore=tests/experiments --ignore=tests/test_benchmarks.py --ignore=tests/loss/test_decisions.py

test-long: $(VENV)/installed
	$(BIN)/python -m pytest -n 2

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
