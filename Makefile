# Two commands do everything: `make up` runs the product, `make test` passes the tests.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is made and tested is this checkout, whatever the shell's Python path says.
unexport PYTHONPATH
TUNE := .venv-tune
SOAK_MINUTES ?= 60

help:            ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

install: $(VENV)/.runtime assets ## the environment, from the lock file

assets:          ## the console's scripts and styles, bundled; nothing to do when no source changed
	@$(PYTHON) tools/assets.py

up: install      ## run the product
	$(BIN)/detent up

lock:            ## write the lock files anew
	$(BIN)/python tools/lock.py

gates: $(VENV)/.dev  ## ruff, mypy, import-linter and our own
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/gates.py

# The browser tests use Debian's chromium. Where it is missing and may not be installed they are skipped, visibly.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium for the browser tests"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; } \
	      >/dev/null 2>&1 || echo "chromium could not be installed; the browser tests will be skipped"; \
	  else echo "no chromium here; the browser tests will be skipped"; fi; }

test: $(VENV)/.dev assets browser gates ## every gate and every test
	$(BIN)/python tools/test.py

soak: $(VENV)/.dev assets ## long runs: more examples per property, kill -9 again and again, an hour of mixed traffic
	HYPOTHESIS_PROFILE=deep DETENT_SOAK=1 $(BIN)/python tools/test.py -p no:randomly --timeout=3600
	$(BIN)/python benchmarks/soak.py --minutes $(SOAK_MINUTES)

bench: $(VENV)/.dev assets ## measure, and write docs/benchmarks.md
	$(BIN)/python benchmarks/report.py

bench-gateway: $(VENV)/.dev assets ## the gateway beside others, and docs/benchmarks/gateway.md; half an hour
	$(BIN)/python benchmarks/gateway_peers.py

bench-resilience: $(VENV)/.dev assets ## outages, swaps and kills under load, and docs/benchmarks/resilience.md; five minutes
	$(BIN)/python benchmarks/resilience.py

# Training needs torch, which has an environment of its own: the CPU build, from wherever pip is configured to find it.
$(TUNE)/.tune: requirements/runtime.txt requirements/dev.txt requirements/tune.txt pyproject.toml
	$(PYTHON) -m venv $(TUNE)
	$(TUNE)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	$(TUNE)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(TUNE)/bin/pip install --quiet --disable-pip-version-check -r requirements/tune.txt
	$(TUNE)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[tune]'
	@touch $@

tiny: $(TUNE)/.tune ## train the embedded model anew, compare digests, run the tests that need torch
	$(TUNE)/bin/python -m detent.serving.engines.tiny.train --out build/tiny --check
	$(TUNE)/bin/python -m pytest -q tests/unit/serving

docs: $(VENV)/.dev ## write the reference pages anew
	$(BIN)/python tools/docs.py

.PHONY: help install up lock gates browser test soak bench bench-gateway bench-resilience tiny docs assets
