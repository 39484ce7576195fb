# Every task of the project; `make` alone lists them.

BIN := .venv/bin
PY := $(BIN)/python
UV := uv==0.13.9
PYTHONS = $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11)
IN_RANGE = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
BY_FILE = --numprocesses 2 --dist loadfile --no-loadscope-reorder
ROWS = 1000000
ROWS_AT = .local/rows
SAY_AND_STOP = { printf '%s\n' "$$line" >&2; exit 1; }

.PHONY: help run data test test-slow test-all start check clean setup setup-scaling setup-book lab notebooks up deploy bucket push serve score monitor simulate rollback rows train-at-scale cluster lint check-docs book format images sample bench lock canary

## First

help: ## list these commands
	@awk -F ':.*## ' '/^## / { print "\n" substr($$0, 4) } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup ## run the whole pipeline: check, train, track, register, push to a bucket, report
	@$(PY) -m wine_quality.check_data --only-mine
	@echo "start     Prefect and MLflow take some 15 seconds to start"
	@$(PY) -m orchestration.run orchestration.train:train_wine_quality

data: setup ## check the data and print a summary, or what is wrong: make data WINE_DATA=folder
	@$(PY) -m wine_quality.check_data

test: setup ## run the quick tests and the pipeline once, offline
	@$(PY) -m pytest $(BY_FILE) -m "not slow and not docs"

test-slow: setup ## run the other tests: servers, a browser, whole commands
	@$(PY) -m pytest $(BY_FILE) -m "slow and not long and not docs"

test-all: test test-slow ## run all tests: those of test and test-slow, and those that take minutes each
	@$(PY) -m pytest $(BY_FILE) -m long

start: setup ## prepare what a chapter builds on: make start CH=4
	@$(PY) -m chapters.start $(CH)

check: setup ## check your work in a chapter, and see what to do next: make check CH=4
	@$(PY) -m chapters.check $(CH)

clean: setup ## delete all runs, models and downloads, after asking; only old files: make clean DAYS=30
	@$(PY) -m chapters.$(if $(DAYS),clean_old $(DAYS),clean)

setup: .venv/.ready ## create .venv and install requirements.txt into it (the other commands do this first)

setup-scaling: .venv/.scaling ## install Dask as well, for chapter 6

setup-book: .venv/.book ## install Sphinx as well, for make book

## Chapters 1 and 2: training, experiment tracking

lab: setup ## open the notebooks in JupyterLab; Ctrl-C stops it
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None \
	  --LabApp.extension_manager=readonly

notebooks: setup-scaling ## execute all notebooks in order and store their outputs
	@$(PY) -m notebooks.execute

## Chapter 3: orchestration

up: setup ## start Prefect, a worker, MLflow and S3 in this terminal; Ctrl-C stops them
	@$(PY) -m orchestration.up

deploy: setup ## create the work pool, the blocks and the deployments in Prefect
	@$(PY) -m orchestration.deploy

bucket: setup ## list the runs in the bucket, and check the files of each against its manifest
	@$(PY) -m orchestration.list_bucket

push: setup ## push a run to the bucket again, from MLflow: make push RUN=id
	@$(PY) -m orchestration.push $(RUN)

## Chapter 4: deployment

serve: setup ## serve the champion on port 8000: predictions, metrics and a page; Ctrl-C stops it
	@$(PY) -m deployment.serve

score: setup ## score the files under incoming/ in the bucket with the champion
	@$(PY) -m orchestration.run deployment.batch:score_wine_batches

## Chapter 5: monitoring

monitor: setup ## monitor the champion: drift, error, rejected requests; request a retraining if that may help
	@$(PY) -m orchestration.run monitoring.monitor:monitor_wine_quality

simulate: setup ## simulate a year of the whole loop, in a folder of its own; six weeks only: make simulate SHORT=1
	@$(PY) -m monitoring.simulation $(if $(SHORT),--short)

rollback: setup ## move the champion alias back to the previous version
	@$(PY) -m monitoring.rollback

## Chapter 6: scaling

rows: setup ## generate a dataset of many rows from WINE_DATA: make rows ROWS=10000000 ROWS_AT=folder
	@$(PY) -m scaling.make_rows "$(ROWS)" "$(ROWS_AT)"

train-at-scale: setup ## train and register a model on many rows, within WINE_MEMORY: make train-at-scale ROWS_AT=folder
	@WINE_DATA="$(ROWS_AT)" $(PY) -m orchestration.run scaling.train_at_scale:train_at_scale

cluster: setup-scaling ## start a team's servers and workers on loopback, with passwords and TLS; Ctrl-C stops them
	@$(PY) -m scaling.cluster

## Development

lint: setup-scaling setup-book ## check style and types
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m chapters.check_types

check-docs: setup ## run the code blocks of the READMEs in a fresh checkout; an hour
	@$(PY) -m pytest -m docs -p no:randomly

book: setup-book ## build a searchable website of all pages, notebooks and docstrings; a minute
	@$(PY) -m sphinx -q -W --keep-going -c book -d .local/book-cache . .local/book
	@echo "book      open file://$(CURDIR)/.local/book/index.html"

format: setup ## fix the style
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .

images: setup ## recreate the pictures from real servers; needs Chromium, a quarter of an hour
	@$(PY) -m images.draw

canary: setup ## try the newest version of every dependency in a clone; writes the table in docs/versions.md
	@$(PY) -m benchmarks.canary

sample: setup ## generate wine_data/sample from the real data in WINE_DATA
	@$(PY) wine_data/make_sample.py

bench: setup ## measure scores, time and memory; writes benchmarks/results
	@$(PY) -m benchmarks.bench && $(PY) -m benchmarks.orchestration && $(PY) -m benchmarks.serving && \
	  $(PY) -m benchmarks.tracking && $(PY) -m benchmarks.search

lock: setup ## pin the dependencies in requirements.txt; to the newest allowed versions: make lock UPGRADE=1
	@$(PY) -m uv pip compile -q $(if $(UPGRADE),--upgrade) --universal --python-version 3.11 --extra dev --no-emit-index-url \
	  --custom-compile-command "make lock" pyproject.toml -o requirements.txt
	@$(PY) -m uv pip compile -q --universal --python-version 3.11 --extra dev --extra scaling --no-emit-index-url \
	  --constraint requirements.txt --no-annotate --custom-compile-command "make lock" pyproject.toml -o scaling/requirements.txt
	@$(PY) -m uv pip compile -q --universal --python-version 3.11 --extra dev --extra book --no-emit-index-url \
	  --constraint scaling/requirements.txt --no-annotate --custom-compile-command "make lock" pyproject.toml -o book/requirements.txt

.venv/.ready: requirements.txt pyproject.toml chapters/install.py
	@for python in $(PYTHONS); do $$python -c '$(IN_RANGE)' 2>/dev/null && break; python=; done; \
	line="error: Python 3.11, 3.12 or 3.13 is needed, and none of '$(PYTHONS)' is one. Install it, or name it: make PYTHON=/path/to/python3.13"; \
	[ -n "$$python" ] || $(SAY_AND_STOP); \
	echo "Setting up .venv with $$($$python --version), once; it takes a minute or two ..."; \
	line="error: $$python has no venv module. Install it (on Debian and Ubuntu: sudo apt install python3-venv) and run again."; \
	$$python -m venv --clear .venv >/dev/null 2>&1 || $(SAY_AND_STOP)
	@$(PY) chapters/install.py $(UV)
	@touch $@

.venv/.scaling .venv/.book: .venv/.%: .venv/.ready %/requirements.txt
	@$(PY) chapters/install.py $(UV) $*/requirements.txt
	@touch $@
