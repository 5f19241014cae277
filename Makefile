# The two commands are `make demo` and `make test`; both do all their own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/finetune-operator
LOCK := $(shell cat tests/requirements.txt | sha256sum | cut -c1-16)
VENV := $(CACHE)/venv-$(LOCK)
PYTHON := $(VENV)/bin/python
export PYTHONPATH := operator:trainer-image:.
export OMP_NUM_THREADS ?= 1

.PHONY: help venv lock lint format crds docs test test-failed test-slow cluster demo demo-upstream demo-down bench bench-upstream bench-trainer bench-gpu chart images sbom clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

venv: $(PYTHON)  ## the Python environment (in the cache, keyed by the lock file)
	@ln -sfn $(VENV) $(CACHE)/venv

$(PYTHON):
	@bash tests/environment.sh $(VENV)

lock:  ## write the hash-locked requirement files anew
	for part in operator trainer-image tests .github/audit; do \
	  UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url \
	    $$part/requirements.in -o $$part/requirements.txt; done

lint: venv  ## ruff, mypy --strict, layers, dependencies
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/deptry operator trainer-image
	$(VENV)/bin/deptry --config operator/deptry.toml operator
	$(VENV)/bin/deptry --config trainer-image/deptry.toml trainer-image \
	  operator/finetune_operator/api operator/finetune_operator/formats
	$(VENV)/bin/deptry --config tests/deptry.toml .
	$(VENV)/bin/mypy operator/finetune_operator trainer-image/finetune_trainer tests

format: venv  ## let ruff format and fix
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

crds: venv  ## generate crds/ from the models
	$(PYTHON) -m finetune_operator.api.crd > crds/finetune.dev_finetunes.yaml
	$(PYTHON) crds/reference.py > crds/README.md

docs: venv  ## generate the pages of docs/ that are made from the code
	$(PYTHON) docs/cli.py > docs/cli.md
	$(PYTHON) docs/troubleshooting.py > docs/troubleshooting.md
	$(PYTHON) docs/metrics.py > docs/metrics.md

demo: venv  ## the main job from end to end: cluster, image, operator, a FineTune, its adapter
	@$(PYTHON) -m examples.demo run $(if $(LEVEL),--level $(LEVEL))

demo-upstream: venv  ## a FineTune at a fake of each hosted provider (PROVIDERS="oxen bfl" for some), from apply to artifact
	@$(PYTHON) -m tests.upstream.demo $(PROVIDERS)

demo-down: venv  ## end what the demo has left running
	@$(PYTHON) -m examples.demo down

cluster: venv  ## the local Kubernetes' binary (in the cache; minutes the first time)
	@$(PYTHON) -m tests.cluster.binary >/dev/null

test: lint cluster  ## prove everything but the long sweeps (make test-slow)
	$(PYTHON) -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

test-failed: venv cluster  ## the (few) tests that failed last time, one after the other
	$(PYTHON) -m pytest --last-failed --last-failed-no-failures none --maxfail 4 $(PYTEST_ARGS)

test-slow: venv cluster  ## the sweeps that take longer than the rest together: providers, Kueue
	$(PYTHON) -m pytest -m slow $(PYTEST_ARGS)

bench: venv  ## how fast FineTunes become Jobs, against what the API server can do at all
	$(PYTHON) -m tests.bench

bench-upstream: venv  ## a hanging provider beside Jobs and other polls, and the cost of a thousand polls
	$(PYTHON) -m tests.bench.upstream

bench-gpu: venv  ## how fast a GPU trains Qwen3-VL-8B and Qwen-Image-Edit, beside a plain loop (says so where none is)
	$(PYTHON) -m tests.bench.gpu

bench-trainer: venv  ## packing and caches against TRL and a loop without, and the cold start, on this CPU
	$(PYTHON) -m tests.bench.trainer

chart: crds  ## generate what of the chart follows from the CRD, the settings and values.yaml
	$(PYTHON) charts/generate.py

images:  ## both images, with docker or buildah (VERSION=, REGISTRY=, BASE=)
	@.ci/images operator trainer

sbom: venv  ## the parts of both images as CycloneDX, from the hash-locked requirement files
	@mkdir -p build
	@for part in operator trainer-image; do \
	  $(VENV)/bin/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements --pyproject pyproject.toml \
	    --output-reproducible --of JSON -o build/$$part.cdx.json $$part/requirements.txt && echo build/$$part.cdx.json; done

clean:  ## remove what the checkout itself built (the cache stays)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
