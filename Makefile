# One virtual environment, made when first needed and remade when pyproject.toml changes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=
# How many processes run tests side by side: two more than there are cores, for tests wait for servers
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 2)')
# Which of noxfile.py's sessions `make test-all` runs; none named: all of them
SESSIONS ?=

PYTEST   := $(BIN)/python -m pytest
PARALLEL := -n $(WORKERS)
# What `make quick` leaves out: whole conversations and programs, what takes seconds, and properties
QUICK    := -m "not exhaustive and not slow and not servers and not hypothesis" $(addprefix --ignore=tests/,\
	faults fuzz guards interoperability lineage mailer processes regressions servers \
	test_delay.py test_docs.py test_imports.py test_testing.py)

# What `make test-windows` runs: the suites of both mailers, but for real servers, signals, and what tries replies,
# inputs and sizes by the hundred, which are the same on each system
WINDOWS := tests/mailer tests/test_sources.py -m "not exhaustive and not slow and not servers" -k "not TestMemory" \
	$(patsubst %,--ignore=tests/mailer/test_%.py,abandoned bad_input bystanders interrupts nobody_stuck reply_forms smuggling unseen)

# To read the tests takes three times as long where Python may not keep what it compiled
unexport PYTHONDONTWRITEBYTECODE
export WORKERS

.DEFAULT_GOAL := help
.PHONY: help demo quick test test-exhaustive test-all test-windows fuzz style format types docs interop guards bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# pip groups dependencies (PEP 735) from 25.1 on; the pip that comes with Python 3.11 and 3.12 is older
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --group dev \
		$(if $(SMTPBACKEND_REQUIRE_SERVERS),--group uwsgi) -e ".[django,flask]"
	@touch $@

demo: $(STAMP) ## send mail from a Django site and a Flask app, and see what arrives
	$(BIN)/python docs/examples/demo.py

quick: style types ## within a minute: ruff, mypy, and the fast tests that need no server
	$(PYTEST) $(PARALLEL) $(QUICK) $(ARGS)

test: $(STAMP) ## the tests on this Python (ARGS="-k name" to choose)
	$(PYTEST) $(or $(ARGS),$(PARALLEL) -m "not exhaustive")

test-exhaustive: $(STAMP) ## what `make test` leaves out: all cases of a kind, and conversations by the thousand
	$(PYTEST) $(PARALLEL) -m exhaustive $(ARGS)

test-all: $(STAMP) ## the tests on each supported Django whose Python is installed, and the coverage (SESSIONS="django-6.0" to choose)
	$(BIN)/python -m nox $(if $(SESSIONS),--session $(SESSIONS))

test-windows: $(STAMP) ## the suites of both mailers, without what Python lacks on Windows: see tests/windows.py
	$(PYTEST) $(PARALLEL) -p tests.windows $(WINDOWS) $(ARGS)

fuzz: $(STAMP) ## ten times as many conversations as in `make test-exhaustive`, other ones; other examples for properties
	SMTPBACKEND_FUZZ=10 $(PYTEST) $(PARALLEL) tests/fuzz $(ARGS)
	SMTPBACKEND_FUZZ=10 $(PYTEST) $(PARALLEL) tests -m hypothesis $(ARGS)

style: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy --strict, and again for Windows, which lacks some of what the standard library has here
	$(BIN)/mypy
	$(BIN)/mypy --platform win32

docs: $(STAMP) ## write docs/reference/settings.md and the types of settings anew from the code, then check every link
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/links.py

interop: $(STAMP) ## every server, TLS mode and login; write docs/interoperability.md anew from what is found
	SMTPBACKEND_REQUIRE_SERVERS=1 SMTPBACKEND_WRITE_INTEROPERABILITY=1 $(PYTEST) tests/interoperability

guards: $(STAMP) ## write tests/guards/kept.json anew, for each Python that is installed
	for python in $(BIN)/python .nox/*/bin/python; do test ! -x $$python || $$python -m tests.guards.figures; done

bench: $(STAMP) ## measure everything beside the peers and write docs/performance.md (ARGS="outbox --save": the outbox alone; ARGS="ready" to print some)
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python -m benchmarks $(or $(ARGS),--save)

clean: ## forget the environments and what the tools remember
	rm -rf $(VENV) .nox benchmarks/.peers .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
