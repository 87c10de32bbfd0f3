# Each target first sets up a virtual environment in .venv, with xvit installed into it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEMO ?= demo
unexport PYTHONDONTWRITEBYTECODE  # without compiled files each process compiles all libraries again: 20 seconds

.PHONY: demo test lint bench clean

demo: $(INSTALLED)  ## train three models on generated videos and compare them: demo/report.html
	$(BIN)/xvit demo --output $(DEMO)

test: $(INSTALLED)  ## run the tests
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## check style, spelling, layers and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(INSTALLED)  ## measure the cost of mixing over the image model, in time and memory
	$(BIN)/xvit benchmark --output bench --frames 8 --time-limit 10 --models "xvit mixing alone" "xvit mixing"

clean:  ## remove the virtual environment
	rm -rf .venv

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	touch $@
