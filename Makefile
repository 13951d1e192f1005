PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNEL := $(BIN)/python -m kernel
MINIATURE := build/weights/manifest.json
CHECKPOINTS := $(wildcard kernel/miniature/checkpoints/*/*)

.DEFAULT_GOAL := help
.PHONY: help setup miniature demo test test-slow test-gpu fuzz figures ablation textside real scale deadlines truesize plan pairs cluster bench parity curves browser screenshots docs format lint notebooks wheels weights dataset rehearse push submit clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(VENV)/.stamp  ## the virtual environment in .venv, made when missing or stale

INSTALL := $(BIN)/python -m pip install --quiet --editable

# once more when it fails: a download of gigabytes that breaks off fails its hash
$(VENV)/.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[demo]' || $(INSTALL) '.[demo]'
	@touch $@

# what only tests, benches and checks need comes with the first of these
DEV := $(VENV)/.stamp-dev
$(DEV): $(VENV)/.stamp
	$(INSTALL) '.[dev]' || $(INSTALL) '.[dev]'
	@touch $@

# the manifest's and the bank's records are written by the modules that check them
RECORDS := $(shell find kernel/models -name '*.py') \
	$(wildcard kernel/pipeline/planning/model*.py kernel/banks/*.py kernel/estimates/*.py)

$(MINIATURE): $(VENV)/.stamp $(CHECKPOINTS) $(RECORDS) $(wildcard kernel/miniature/*.py kernel/miniature/*/*.py)
	$(BIN)/python -m kernel.miniature.assemble

miniature: $(VENV)/.stamp  ## the miniature weights folder build/weights, put together anew
	$(BIN)/python -m kernel.miniature.assemble

demo: $(MINIATURE)  ## 64 drawn pictures through the whole line: build/demo/submission.csv, report.html, scores
	$(KERNEL) demo

# one thread a process: two that each take every core wait for one another most of the time; a module stays with one
# worker, which makes its finished runs once
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder --durations 20

test: $(DEV) $(MINIATURE)  ## the tests, without the slow ones and those of a GPU, as many at a time as there are cores, at most 4
	$(PYTEST) -m 'not slow and not gpu'

test-slow: $(DEV) $(MINIATURE)  ## the slow tests: rehearsal, conversion of gigabytes, figures of the miniature models, memory
	$(PYTEST) -m slow

test-gpu: $(DEV) $(MINIATURE)  ## what needs a GPU: half precision, workers, memory, a run; skipped with the reason where there is none
	$(BIN)/python -m pytest -q -rs tests/gpu

fuzz: $(DEV)  ## ten minutes each of bytes nobody foresaw, into what reads files of others: build/fuzz
	$(INSTALL) '.[dev,fuzz]'
	$(BIN)/python -m tests.fuzz

figures: $(MINIATURE)  ## figures of the miniature models on 500 held-out pictures
	$(BIN)/python -m kernel.miniature.training.figures

ablation: $(DEV) $(MINIATURE)  ## what each estimate adds, on miniature pictures: build/ablation/ablation.json, .svg
	$(BIN)/python -m tests.bench.ablation

PROMPTS ?= ../shared/prompts/real_prompts.txt

textside: $(DEV) $(MINIATURE)  ## what the text side's settings are worth on real prompts: PROMPTS=FILE, build/textside/textside.md
	$(BIN)/python -m tests.bench.text_side --prompts $(PROMPTS) --out build/textside

PAIRS ?= ../shared/pairs

real: $(DEV) $(MINIATURE)  ## what real towers make of real pictures with prompts: PAIRS=FOLDER, build/real/real.md
	$(BIN)/python -m tests.bench.real --pairs $(PAIRS) --out build/real

scale: $(DEV) $(MINIATURE)  ## 16,000 drawn pictures through a run beside 1,600: time by stage, peak memory; takes an hour
	$(BIN)/python -m tests.bench.endurance scale

deadlines: $(DEV) $(MINIATURE)  ## runs under ever longer --deadline: what each leaves, and whether it ends in time
	$(BIN)/python -m tests.bench.endurance deadlines

truesize: $(DEV) $(MINIATURE)  ## random weights of true size on the CPU: memory predicted, measured (12 GB of disk, 18 GB of RAM)
	$(BIN)/python -m tests.bench.truesize --stored shipped

pairs: $(DEV) $(MINIATURE)  ## what training on drawn pairs is worth, by tier: build/pairs/pairs.json; takes most of an hour
	$(BIN)/python -m tests.bench.pairs

cluster: $(DEV) $(MINIATURE)  ## a bank and features by one process, two, a Ray cluster, and one that loses machines: build/cluster; a quarter of an hour
	$(BIN)/python -m tests.bench.cluster

bench: $(DEV) $(MINIATURE)  ## beside clip-interrogator, the seed's way and the bare models, in turns: build/bench/bench.json
	$(BIN)/python -m tests.bench --prompts $(PROMPTS)

parity: $(DEV) $(MINIATURE)  ## describe beside clip-interrogator on 200 pictures: identical words; takes a quarter of an hour
	$(BIN)/python -m tests.bench.parity

curves: $(DEV) $(MINIATURE)  ## time and memory over images and over a bank's prompts: build/bench/curves.json, .svg; takes half an hour
	$(BIN)/python -m tests.bench.curves

browser:  ## Debian's Chromium, which drives the tests of report, notebook and server, where it is missing and can be installed
	@if command -v chromium >/dev/null; then chromium --version; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		{ apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core; } \
		|| echo "Chromium could not be installed: its tests will be skipped"; \
	else echo "no Chromium and no right to install it: its tests will be skipped. As root: apt install chromium"; fi

screenshots: $(DEV) demo  ## README's pictures of the demo's report and of the server's page
	$(BIN)/python -m tests.browser.screenshots

plan: $(VENV)/.stamp  ## memory and time of a run on Kaggle's GPUs, estimated
	$(KERNEL) plan

format: $(DEV)  ## formats every file and mends what ruff can mend by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DEV)  ## the tables of docs/ that a command makes: settings, commands, plan, speed; seconds
	$(BIN)/python -m tests.bench.docs

lint: $(DEV)  ## ruff, mypy, the rooms' imports, and that no page of docs/ is stale
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.bench.docs --check

notebooks: $(VENV)/.stamp  ## the .ipynb of every source in notebooks/
	$(KERNEL) publish notebooks

wheels: $(VENV)/.stamp  ## wheels/: what Kaggle's image lacks, checked against it
	$(KERNEL) publish wheels

weights: $(VENV)/.stamp  ## build/kaggle-weights: the real weights in fp16, from the hub (23 GB down, 13 GB kept)
	$(KERNEL) publish weights

dataset: wheels  ## uploads weights and wheels as a Kaggle dataset
	$(KERNEL) publish dataset

rehearse: $(DEV) $(MINIATURE) wheels  ## the whole way to Kaggle on this machine, offline, on the image's versions
	$(KERNEL) publish rehearse

push: $(VENV)/.stamp  ## sends code and notebook to Kaggle and follows the run to its end
	$(KERNEL) publish push --wait

submit: $(VENV)/.stamp  ## submits the pushed version and waits for its score
	$(KERNEL) publish submit

clean:  ## removes everything that was built
	rm -rf $(VENV) build wheels/*.whl *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
