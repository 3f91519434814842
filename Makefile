# make demo | test | lint | clean. Each makes .venv and installs into it what it needs.
# Variables: PYTHON (3.10 or newer), PIP_ARGS (such as an index that has CPU builds of torch),
# DEMO_ARGS (options of `vq4dit demo`), PYTEST_ARGS.

PYTHON ?= python3
PIP_ARGS ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# An editable install takes Python from the checkout, but the native library is built once:
# everything that it is built from must lead to a new install.
INSTALLED_FROM := pyproject.toml constraints.txt CMakeLists.txt $(wildcard plugins/cpu/*)
DEV := $(VENV)/.installed-dev
# `make demo` needs less than the tests do; where the tests' packages are there, they will do.
DEMO := $(if $(wildcard $(DEV)),$(DEV),$(VENV)/.installed-calibrate)
FOLDERS := calibrate export plugins runtime engines demo
SOURCES := src $(FOLDERS) tests benchmarks docs
TYPING := build/typing/vq4dit

.PHONY: all demo test lint typing clean

all: test

demo: $(DEMO)
	$(BIN)/vq4dit demo $(DEMO_ARGS)

# One torch thread: the tests' models are tiny, and two threads that wait for each other are many
# times slower than one where other work shares the processors.
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PYTEST_ARGS)

lint: $(DEV) typing
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	MYPYPATH=build/typing $(BIN)/mypy

# Type checkers do not follow editable installs: show them the packages as a tree of links.
typing:
	rm -rf $(TYPING)
	mkdir -p $(TYPING)
	@ln -s $(wildcard $(CURDIR)/src/vq4dit/*) $(addprefix $(CURDIR)/,$(FOLDERS)) $(TYPING)/

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$(PYTHON) is older than Python 3.10; name a newer one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed-calibrate: $(INSTALLED_FROM) | $(BIN)/python
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[calibrate]'
	@touch $@

$(DEV): $(INSTALLED_FROM) | $(BIN)/python
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@
