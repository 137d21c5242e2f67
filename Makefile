# `make` lists the targets. Everything is installed into .venv of this folder and nowhere else.

PYTHON ?= python3
VENV ?= .venv
# pip takes the CPU build where it finds one (see CONTRIBUTING.md), else the build that brings CUDA.
TORCH ?= torch==2.13.0
MODELS ?= $(or $(HIDDENSTATE_MODELS),models)
IMAGE ?= hiddenstate
CONTAINER ?= $(firstword $(notdir $(shell command -v docker) $(shell command -v podman)))
ARGS ?=

PIP_LOG := $(VENV)/pip.log
INSTALL := >$(PIP_LOG) 2>&1 $(VENV)/bin/python -m pip --disable-pip-version-check install
OR_SAY_WHY := || { grep -v ^WARNING $(PIP_LOG) | tail -n 25 >&2; echo "pip failed; all that it said: $(PIP_LOG)" >&2; exit 1; }
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# What tests the modules that are compiled, in less than a minute: not what loads and watches models.
NEAR_THE_ENGINE = $(filter-out %/test_quarantine.py %/test_schema.py tests/server/test_repository%,$(wildcard tests/server/test_*.py))
# Tests mostly wait: for servers, and for what shall not happen. Those of one file stay together.
IN_TWO = --numprocesses 2 --dist loadfile
CAN_SERVE := $(VENV)/.can-serve
CAN_TEST := $(VENV)/.can-test

export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'ARGS="..." is handed on: make test ARGS="tests/client -k stream", make serve ARGS="--log-format json".'

.PHONY: serve
serve: $(CAN_SERVE) compile ## Serve the shipped models; HIDDENSTATE_LISTEN and the like are honoured.
	@exec $(VENV)/bin/hiddenstate serve --models "$(MODELS)" $(ARGS)

.PHONY: test
test: $(CAN_TEST) compile ## Run the tests.
	@HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest $(IN_TWO) $(ARGS)

.PHONY: interpreted
interpreted: $(CAN_TEST) ## Run the tests of the modules that are compiled once more, from their sources.
	@HIDDENSTATE_INTERPRETED=1 HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest $(IN_TWO) $(or $(ARGS),$(NEAR_THE_ENGINE))

.PHONY: compile
compile: $(CAN_SERVE) ## Compile what has changed of the server; HIDDENSTATE_COMPILE=0 removes what was compiled.
	@$(VENV)/bin/python -m tools.compile

.PHONY: interop
interop: $(CAN_TEST) compile ## Hold the server against tritonclient, perf_analyzer, grpcurl, k6, a Node client and Prometheus.
	@$(VENV)/bin/python tests/interop/run.py $(ARGS)

.PHONY: fuzz
fuzz: $(CAN_TEST) compile ## Send a server 100,000 inputs that nobody should send, as every night does.
	@$(VENV)/bin/python tests/fuzz/run.py $(ARGS)

.PHONY: chaos
chaos: $(CAN_TEST) compile ## Break servers, and what is around them, again and again; some minutes.
	@cd tests && ../$(VENV)/bin/python -m chaos

.PHONY: soak
soak: $(CAN_TEST) compile ## Load a server for half an hour with reloads, and draw what it holds.
	@$(INSTALL) --group bench $(OR_SAY_WHY)
	@cd tests && ../$(VENV)/bin/python -m chaos.soak --plot ../soak.png $(ARGS)

.PHONY: exporter
exporter: $(CAN_TEST) ## Install what training and exporting need, PyTorch among it.

.PHONY: lint
lint: $(CAN_TEST) ## Check format, lint, types, contract, generated code and deployment files.
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/buf lint proto
	tools/check_proto.sh
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml

.PHONY: check
check: lint test ## Everything that has to pass before a commit: lint, then test.

.PHONY: format
format: $(CAN_TEST) ## Format the code and mend what ruff can mend.
	$(VENV)/bin/ruff check --fix-only
	$(VENV)/bin/ruff format

.PHONY: proto
proto: ## Generate the stubs in client/ and server/ from proto/.
	PYTHON="$(PYTHON)" tools/generate_proto.sh

.PHONY: dist
dist: $(CAN_TEST) ## Build the wheel and the source distribution into dist/.
	$(VENV)/bin/python -m build

.PHONY: image
image: ## Build the container image with docker or podman.
	@test -n "$(CONTAINER)" || { echo 'make image needs docker or podman' >&2; exit 1; }
	$(CONTAINER) build $(if $(filter podman,$(CONTAINER)),--format docker) \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --tag $(IMAGE) $(ARGS) .

.PHONY: clean
clean: ## Remove what was built and cached; the virtual environments stay.
	find server -name '*.so' -delete
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find benchmarks client exporter server tests tools -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hiddenstate needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	    "Name another one: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; exit 1; }
	@echo "Making a virtual environment in $(VENV) with $$($(PYTHON) -V)" >&2
	@$(PYTHON) -m venv $(VENV)

# --group needs pip 25.1, which no Python 3.11 brings along.
$(CAN_SERVE): pyproject.toml | $(VENV)/bin/pip
	@echo "Installing what the server needs into $(VENV): a minute or two, once (see $(PIP_LOG))" >&2
	@$(INSTALL) --upgrade 'pip>=25.1' $(OR_SAY_WHY)
	@$(INSTALL) --editable '.[server,top]' --group build $(OR_SAY_WHY)
	@touch $@

$(CAN_TEST): pyproject.toml | $(VENV)/bin/pip
	@echo "Installing what the tests need into $(VENV), $(TORCH) among it: some minutes, once (see $(PIP_LOG))" >&2
	@$(INSTALL) --upgrade 'pip>=25.1' $(OR_SAY_WHY)
	@$(INSTALL) --editable '.[exporter]' --group build --group dev '$(TORCH)' $(OR_SAY_WHY)
	@touch $@ $(CAN_SERVE)
