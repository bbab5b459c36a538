# Every target does its own set-up, into .venv of this checkout.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test models lint bench clean

demo: $(VENV)/.ready models
	$(BIN)/fewtoon demo --out demo

test: $(VENV)/.ready-dev lint models
	$(BIN)/python -m pytest -n auto

models: $(VENV)/.ready
	-$(BIN)/fewtoon models fetch  # without them a weaker detector is used, and their tests are skipped

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

bench: $(VENV)/.ready-dev
	@for file in benchmarks/*.py; do $(BIN)/python $$file --json || [ $$? = 2 ] || exit 1; done  # 2: its data are missing

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build src/*.egg-info .pytest_cache .ruff_cache .mypy_cache
