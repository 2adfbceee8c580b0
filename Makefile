# Every target sets up what it needs by itself. Options of set-up go on the same line: make test PYTHON=python3.11
SHELL := /bin/bash
.DEFAULT_GOAL := help
VPY := .venv/bin/python

# What test-all and .ci/run run, in this order; each is a target below.
PARTS := setup lint typecheck test test-slow test-distributed

.PHONY: help setup demo test test-slow test-distributed test-all lint typecheck gpu-smoke clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup: ## the virtual environment .venv with the verified versions (first time about 15 minutes, then seconds)
	@tools/setup_env.sh

demo: setup ## draw the embedded data set, train a small E2E-MF on it, score it and show it (20 minutes at most)
	$(VPY) tools/demo.py

test: setup ## the test suite (10 minutes at most)
	$(VPY) -m pytest -m 'not slow and not distributed'

test-slow: setup ## the tests marked slow
	$(VPY) -m pytest -m 'slow and not distributed'

test-distributed: setup ## the tests that start several processes
	$(VPY) -m pytest -m distributed

test-all: ## everything that CI runs, with the minutes of each part
	+@MAKE='$(MAKE)' tools/run_parts.sh $(PARTS)

lint: setup ## ruff
	$(VPY) -m ruff check .

typecheck: setup ## mypy
	$(VPY) -m mypy

gpu-smoke: setup ## a few training steps on a GPU, for someone who has one
	$(VPY) tools/gpu_smoke.py

clean: ## caches and build products; never .venv, data or work_dirs
	rm -rf build dist mmdet_mobileformer.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find mmdet_mobileformer tools tests configs -name __pycache__ -type d -prune -exec rm -rf {} +
