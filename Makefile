# Everything is installed into .venv; nothing else is needed but Python 3.11 to 3.13 and a network.
#   make demo               trains, scores and derains, pictures in demo/
#   make test               linters, type checker and the whole test suite
#   make browser-test       of it, what needs a browser: installs Chromium where apt can
#   make PYTHON=python3.12 test    with another interpreter

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Empty files, newer than what was installed from: a package list that did not change costs nothing.
STAMPS := $(VENV)/.stamps
PACKAGES := pyproject.toml requirements.txt

# The tests compile the same small networks in many processes.
TEST_CACHE := $(VENV)/.jax-cache

# A worker a core, each with whole files, whose tests share what they compile, in the order of
# tests/conftest.py; a worker takes 2 GB.
PARALLEL := --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test browser-test docs notebooks distribution lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   train a tiny network on photographs with synthetic rain (2 to 4 minutes on 2 cores)"
	@echo "            and derain with it: pictures and scores in demo/"
	@echo "make test   formatter, linter, type checker and all tests"
	@echo "make lint   the first three of them"
	@echo "make browser-test   the page's tests in headless Chromium, installed by apt if it is missing"
	@echo "make docs   the documentation site, in docs/_build/html"
	@echo "make notebooks   notebooks/*.ipynb anew, from the scripts beside them"
	@echo "make distribution   the files of a release, built and checked, in dist/"
	@echo "make clean  remove .venv and what building and testing leave behind (not demo/, not runs/)"
	@echo "Another interpreter than python3: make PYTHON=python3.12 demo"

demo: $(STAMPS)/demo
	@$(BIN)/python tools/demo.py --out demo

test: lint
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/$(TEST_CACHE) \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.5 \
	$(BIN)/python -m pytest $(PARALLEL)

# In `make test` these tests skip where Chromium is missing; here that is an error.
browser-test: $(STAMPS)/dev
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  echo "installing Chromium and its driver (apt packages chromium and chromium-driver)"; \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq chromium chromium-driver; } \
	  || { echo "error: install Chromium and chromedriver, then try again" >&2; exit 1; }
	DRSFORMER_BROWSER=required $(BIN)/python -m pytest tests/page/test_browser*.py

# The scripts are what is edited; the notebooks are what Colab and GitHub open.
notebooks: $(STAMPS)/dev
	$(BIN)/jupytext --quiet --to ipynb notebooks/*.py

# Warnings are errors: a link that leads nowhere, a docstring that cannot be read.
docs: $(STAMPS)/dev
	$(BIN)/python -m sphinx -W -q -b html -c docs . docs/_build/html
	@echo "docs/_build/html/docs/index.html"

# What is uploaded on a release, built and checked in an environment of its own.
distribution: $(STAMPS)/demo
	rm -rf dist build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*

lint: $(STAMPS)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
	  || version=missing; \
	case $$version in \
	  3.11|3.12|3.13) ;; \
	  *) echo "error: Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is $$version:" \
	       "name another one, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1 ;; \
	esac
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/demo: $(STAMPS)/venv $(PACKAGES)
	@echo "installing JAX, Flax and the demonstration's packages into $(VENV) (some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

# The development packages hold the demonstration's.
$(STAMPS)/dev: $(STAMPS)/venv $(PACKAGES)
	@echo "installing JAX, Flax, PyTorch (for parity tests) and the linters into $(VENV)" \
	  "(some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMPS)/demo
	@touch $@
