# The only task vocabulary. `make` alone lists it.

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

help: ## list these targets
	@awk -F ':.*## ' '/^## / { print "\n" substr($$0, 4) } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup ## wine in, checked, trained, tracked, registered, pushed to a bucket; a report at the end
	@$(PY) -m wine_quality.check_data --only-mine
	@echo "start     Prefect and MLflow take some 15 seconds to start"
	@$(PY) -m orchestration.run orchestration.train:train_wine_quality

data: setup ## make data WINE_DATA=folder: read and check the data, and say what there is or what is wrong
	@$(PY) -m wine_quality.check_data

test: setup ## run the quick tests and the main path once, offline
	@$(PY) -m pytest $(BY_FILE) -m "not slow and not docs"

test-slow: setup ## run the other tests: servers, a browser, whole commands
	@$(PY) -m pytest $(BY_FILE) -m "slow and not long and not docs"

test-all: test test-slow ## run all tests: these, and those that take long
	@$(PY) -m pytest $(BY_FILE) -m long

start: setup ## make start CH=4: make what a chapter takes for granted, so that you can begin with it
	@$(PY) -m chapters.start $(CH)

check: setup ## make check CH=4: what is done in a chapter, what is missing, what to do next
	@$(PY) -m chapters.check $(CH)

clean: setup ## delete all runs, models and downloads; it asks first. make clean DAYS=30: only files of older runs
	@$(PY) -m chapters.$(if $(DAYS),clean_old $(DAYS),clean)

setup: .venv/.ready ## create .venv and install requirements.txt into it (run and test do it by themselves)

setup-scaling: .venv/.scaling ## install Dask too, for chapter 6

setup-book: .venv/.book ## install Sphinx too, for make book

## Chapters 1 and 2: training, experiment tracking

lab: setup ## open the notebooks in JupyterLab; Ctrl-C stops it
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None \
	  --LabApp.extension_manager=readonly

notebooks: setup-scaling ## execute all notebooks in order and keep what they show
	@$(PY) -m notebooks.execute

## Chapter 3: orchestration

up: setup ## start Prefect, a worker, MLflow and S3 in this terminal; Ctrl-C stops them
	@$(PY) -m orchestration.up

deploy: setup ## make the work pool, the blocks and the deployments in Prefect
	@$(PY) -m orchestration.deploy

bucket: setup ## list the runs in the bucket, download each and check it against its manifest
	@$(PY) -m orchestration.list_bucket

push: setup ## make push RUN=id: push a run to the bucket again, from what MLflow has of it
	@$(PY) -m orchestration.push $(RUN)

## Chapter 4: deployment

serve: setup ## serve the champion: predictions, metrics and a page at port 8000; Ctrl-C stops it
	@$(PY) -m deployment.serve

score: setup ## score the files under incoming/ in the bucket with the champion
	@$(PY) -m orchestration.run deployment.batch:score_wine_batches

## Chapter 5: monitoring

monitor: setup ## monitor the model in use: drift, error, rejected requests; request a retraining if that may help
	@$(PY) -m orchestration.run monitoring.monitor:monitor_wine_quality

simulate: setup ## simulate a year of the whole loop, in a home of its own; make simulate SHORT=1 for six weeks
	@$(PY) -m monitoring.simulation $(if $(SHORT),--short)

rollback: setup ## give the alias champion back to the version before
	@$(PY) -m monitoring.rollback

## Chapter 6: scaling

rows: setup ## make rows ROWS=10000000 ROWS_AT=folder: make a dataset of many rows, from the wine in WINE_DATA
	@$(PY) -m scaling.make_rows "$(ROWS)" "$(ROWS_AT)"

train-at-scale: setup ## make train-at-scale ROWS_AT=folder: from many rows to a version, within WINE_MEMORY
	@WINE_DATA="$(ROWS_AT)" $(PY) -m orchestration.run scaling.train_at_scale:train_at_scale

cluster: setup-scaling ## start on loopback what a team runs on several machines, with passwords and TLS; Ctrl-C stops it
	@$(PY) -m scaling.cluster

## To work on the code

lint: setup-scaling setup-book ## check style and types
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m chapters.check_types

check-docs: setup ## do all that the READMEs say, block by block, in a checkout of its own; 20 minutes
	@$(PY) -m pytest -m docs -p no:randomly

book: setup-book ## build a website of all texts, notebooks and docstrings, to read and search; a minute
	@$(PY) -m sphinx -q -W --keep-going -c book -d .local/book-cache . .local/book
	@echo "book      open file://$(CURDIR)/.local/book/index.html"

format: setup ## fix the style
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .

images: setup ## draw all pictures of the READMEs anew, on real servers; needs Chromium, a quarter of an hour
	@$(PY) -m images.draw

canary: setup ## try the newest version of every dependency in a clone; write the table of docs/versions.md
	@$(PY) -m benchmarks.canary

sample: setup ## fit and write wine_data/sample from the real wine in WINE_DATA
	@$(PY) wine_data/make_sample.py

bench: setup ## measure scores, time and memory into benchmarks/results
	@$(PY) -m benchmarks.bench && $(PY) -m benchmarks.orchestration && $(PY) -m benchmarks.serving && \
	  $(PY) -m benchmarks.tracking && $(PY) -m benchmarks.search

lock: setup ## pin pyproject.toml anew into requirements.txt; make lock UPGRADE=1: the newest of all that it admits
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
