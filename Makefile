# Each target sets up what it needs: a virtual environment in .venv, with xvit installed into it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEMO ?= demo

.PHONY: demo test lint bench clean

demo: $(INSTALLED)  ## three models trained on made videos and compared: demo/report.html
	$(BIN)/xvit demo --output $(DEMO)

test: $(INSTALLED)  ## the tests
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## style, layers, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(INSTALLED)  ## what mixing costs over the image model, in time and memory
	$(BIN)/xvit benchmark --output bench --rounds 15 --frames 8 --precisions fp32 \
		--models "image model" "xvit mixing alone" "xvit mixing"

clean:  ## remove the virtual environment
	rm -rf .venv

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
