PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WEIGHTS := build/weights/manifest.json
CHECKPOINTS := $(wildcard kernel/miniature/checkpoints/*/*)

.DEFAULT_GOAL := help
.PHONY: help setup weights demo test test-slow figures lint clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(VENV)/.stamp  ## the virtual environment in .venv, made when missing or stale

INSTALL := $(BIN)/python -m pip install --quiet --editable '.[dev]'

# once more when it fails: a download of gigabytes that breaks off fails its hash
$(VENV)/.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) || $(INSTALL)
	@touch $@

# the manifest's records are written by the modules that check them
RECORDS := $(addprefix kernel/,checkpoints.py clip.py captions.py sentences.py)

$(WEIGHTS): $(VENV)/.stamp $(CHECKPOINTS) $(RECORDS) $(wildcard kernel/miniature/*.py)
	$(BIN)/python -m kernel.miniature.assemble

weights: $(VENV)/.stamp  ## the miniature weights folder build/weights, put together anew
	$(BIN)/python -m kernel.miniature.assemble

demo: $(WEIGHTS)  ## 64 drawn pictures through the whole line: build/demo/submission.csv, report.html, scores
	$(BIN)/python -m kernel demo

test: $(WEIGHTS)  ## the tests, without the slow ones
	$(BIN)/python -m pytest -q -m 'not slow'

test-slow: $(WEIGHTS)  ## the slow tests: figures of the miniature models, memory, full-size word lists
	$(BIN)/python -m pytest -q -m slow

figures: $(WEIGHTS)  ## figures of the miniature models on 500 held-out pictures
	$(BIN)/python -m kernel.miniature.evaluate

lint: $(VENV)/.stamp  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## removes everything that was built
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
