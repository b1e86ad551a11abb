# One virtual environment, made when first needed and remade when pyproject.toml changes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=
# Which of noxfile.py's sessions `make test-all` runs; none named: all of them
SESSIONS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-all fuzz style format types docs interop guards bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# pip groups dependencies (PEP 735) from 25.1 on; the pip that comes with Python 3.11 and 3.12 is older
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --group dev -e ".[django,flask]"
	@touch $@

demo: $(STAMP) ## send mail from a Django site and a Flask app, and see what arrives
	$(BIN)/python docs/examples/demo.py

test: $(STAMP) ## every test on this Python, with the coverage of smtpbackend/ (ARGS="-k name" to choose)
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m coverage report)

test-all: $(STAMP) ## the tests on each supported Django whose Python is installed (SESSIONS="django-6.0" to choose)
	$(BIN)/python -m nox $(if $(SESSIONS),--session $(SESSIONS))

fuzz: $(STAMP) ## ten times as many conversations as in `make test`, and other ones; other examples for each property
	SMTPBACKEND_FUZZ=10 $(BIN)/python -m pytest tests/fuzz $(ARGS)
	SMTPBACKEND_FUZZ=10 $(BIN)/python -m pytest tests -m hypothesis $(ARGS)

style: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

docs: $(STAMP) ## write docs/reference/settings.md anew from the code, then check every link
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/links.py

interop: $(STAMP) ## every server, TLS mode and login; write docs/interoperability.md anew from what is found
	SMTPBACKEND_REQUIRE_SERVERS=1 SMTPBACKEND_WRITE_INTEROPERABILITY=1 $(BIN)/python -m pytest tests/interoperability

guards: $(STAMP) ## write tests/guards/kept.json anew, for each Python that is installed
	for python in $(BIN)/python .nox/*/bin/python; do test ! -x $$python || $$python -m tests.guards.figures; done

bench: $(STAMP) ## measure everything beside the peers and write docs/performance.md (ARGS="ready" to print some)
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python -m benchmarks $(or $(ARGS),--save)

clean: ## forget the environments and what the tools remember
	rm -rf $(VENV) .nox benchmarks/.peers .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
