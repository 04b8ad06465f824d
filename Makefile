# Everything a developer runs. `make help` lists it; each line says what you get.
# Nothing is needed but Python >= 3.11 and make: the rest comes into .venv from the lock file, once.

VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
READY  := $(VENV)/.messmail-ready

# Two workers fill the two cores the suite is budgeted for; each has its own PostgreSQL and Valkey, so more would only
# queue for the disk. One file stays on one worker, so that what its tests share is started once.
WORKERS ?= 2
PYTEST  := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

# Tests start processes by the hundred. Each would compile all that it imports, where an environment forbids to keep it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-15s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---- running it

.PHONY: demo up bench bench-send bench-size bench-distance
demo: $(READY) ## start everything and walk the guide's seven steps with 1,000 members (ARGS=--once to end after it)
	$(BIN)/messmail demo $(ARGS)

up: $(READY) ## start everything and stay up (ARGS="--http 127.0.0.1:8080 …")
	$(BIN)/messmail up $(ARGS)

bench: $(READY) ## measure requests per second against bare inserts on the same PostgreSQL
	$(BIN)/python -m bench.rest $(ARGS)

bench-send: $(READY) ## measure mails per second of a whole send job against Postfix's smtp-source (ARGS="--members 20000 …")
	$(BIN)/python -m bench.send $(ARGS)

bench-size: $(READY) ## measure what a mail costs in a job of 1,000,000 against one of 100,000: CPU and memory
	$(BIN)/python -m bench.size $(ARGS)

bench-distance: $(READY) ## measure mails per second over one connection of 50 ms round-trip time against aiosmtplib
	$(BIN)/python -m bench.distance $(ARGS)

# ---- checking it

# Shares of the machine are measured while nothing else runs on it.
SHARES := tests/faults/test_shares.py

.PHONY: test test-fast faults claims lint format typecheck
test: lint typecheck third-party-protos ## everything: lint, types and every test; at the end, what could not run on this machine
	$(BIN)/python -m pytest --quiet $(SHARES)
	$(PYTEST) --ignore $(SHARES) $(ARGS)

test-fast: $(READY) ## the tests that take seconds
	$(PYTEST) -m "not slow and not browser" $(ARGS)

SHARE ?= 1
# The claims about semantics and pacing have tests of their own, here always at full count.
SEMANTICS := tests/contracts/test_esp_smtp_class_table.py tests/contracts/test_esp_smtp_sessions.py \
	tests/rpc/test_send_engine_idempotency.py tests/rpc/test_send_engine_control.py tests/rpc/test_send_engine_faults.py \
	tests/rpc/test_send_engine_pacing.py
# Of the faults most time goes by waiting for leases and starts, so four at once fit on two cores; the longest begin
# first.
faults: $(READY) ## hurt everything as often as the claims ask for, and write docs/reliability.md (SHARE=0.2 for a fifth)
	MESSMAIL_FAULTS_SHARE=$(SHARE) $(BIN)/python -m pytest --capture no $(SHARES)
	MESSMAIL_FAULTS_SHARE=$(SHARE) MESSMAIL_FAULTS_WRITE=1 MESSMAIL_CANCEL_RACES=100 MESSMAIL_PACING_SECONDS=60 \
		$(BIN)/python -m pytest --numprocesses 4 --dist load --maxschedchunk 1 tests/faults --ignore $(SHARES) $(SEMANTICS) $(ARGS)

# What the claims about consent, tokens, tenants and hostile input ask for in full; S7 is among the faults. The longest
# begin first, as in faults: pytest-xdist's own order, by how many tests a file has, would leave them for the end.
claims: $(READY) third-party-protos ## show each claim of docs/security.md as often as it asks for, and write its table (SHARE=0.2 for a fifth)
	MESSMAIL_CLAIMS_SHARE=$(SHARE) MESSMAIL_FAULTS_SHARE=$(SHARE) $(PYTEST) --no-loadscope-reorder --claims --write-claims --timeout 3600 $(ARGS)

lint: $(READY) ## ruff: rules and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(READY) third-party-protos ## put code and protos into their form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format --write proto

typecheck: $(READY) ## mypy --strict
	$(BIN)/mypy

# ---- the contract

.PHONY: generate proto-lint proto-breaking proto-baseline proto-bundle third-party-protos
generate: $(READY) ## write generated/ and docs/errors.md from proto/
	$(BIN)/python -m tools.generate
	$(BIN)/python -m tools.write_error_reference

third-party-protos: $(READY)
	@$(BIN)/python -m tools.fetch_third_party_protos

proto-lint: third-party-protos ## buf: rules, comments and formatting of the contract
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto

proto-breaking: third-party-protos ## compare the contract with the last released one
	$(BIN)/buf breaking proto --against proto/baseline.binpb

proto-baseline: third-party-protos ## at a release: make the present contract the one to compare with
	$(BIN)/buf build proto --exclude-source-info --output proto/baseline.binpb

proto-bundle: $(READY) ## write build/proto-bundle, from which other languages generate
	$(BIN)/python -m tools.bundle_protos

# ---- shipping it

.PHONY: setup wheel lock clean
setup: $(READY) ## make .venv with the locked packages (the other targets do this themselves)

wheel: $(READY) ## build dist/messmail-*.whl
	$(BIN)/python -m hatchling build --target wheel

# The files name no package index, so that they install from whichever one a machine is set up for.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" $(ARGS) pyproject.toml

lock: $(READY) ## pin every package again (ARGS=--upgrade for newer ones)
	$(BIN)/$(COMPILE) --extra embedded --output-file requirements.lock
	$(BIN)/$(COMPILE) --extra embedded --extra rabbitmq --group dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## remove what builds and tests left (not .venv, not your data)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# ---- the environment

$(READY): requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked packages into $(VENV) (once, and again when the lock changes)"
	@$(BIN)/python -m tools.install_locked requirements-dev.lock
	@touch $@

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Messmail needs Python 3.11 or newer, and found none (python3 is $$(python3 --version 2>&1))."; \
		echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
		echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; fi
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
