# Each target first sets up a virtual environment in .venv, with xvit installed into it: alone for the demo, with the
# optional parts and the tools for tests and style (the extra "dev") for the others.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEV := .venv/installed-dev
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
DEMO ?= demo
unexport PYTHONDONTWRITEBYTECODE  # without compiled files each process compiles all libraries again: 20 seconds

.PHONY: demo test lint bench docs clean

demo: $(INSTALLED)  ## classify videos with the bundled model, train two models and compare them: demo/report.html
	$(BIN)/xvit demo --output $(DEMO)

test: $(DEV)  ## run the tests
	$(BIN)/python -m pytest

lint: $(DEV)  ## check style, spelling, layers and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(DEV)  ## measure the cost of mixing over the image model, in time and memory
	$(BIN)/xvit benchmark --output bench --frames 8 --time-limit 10 --models "xvit mixing alone" "xvit mixing"

docs: $(DEV)  ## build the documentation site: docs/_build/html/index.html
	$(BIN)/python -m sphinx -b html --fail-on-warning --keep-going docs docs/_build/html

clean:  ## remove the virtual environment
	rm -rf .venv

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(INSTALL) -e .
	$(BIN)/python -c 'import xvit.experiments.demo.run'  # compiles what the demo imports
	touch $@

$(DEV): pyproject.toml
	$(PYTHON) -m venv .venv
	$(INSTALL) -e '.[dev]'
	touch $(INSTALLED) $@
