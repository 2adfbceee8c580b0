# Every target sets up what it needs by itself. Options of set-up go on the same line: make test PYTHON=python3.11
# STACK=onedl does any of it on OneDL's forks of OpenMMLab's packages, in an environment of their own: make test STACK=onedl
SHELL := /bin/bash
.DEFAULT_GOAL := help
export STACK ?= stock
VPY := $(if $(filter onedl,$(STACK)),.venv-onedl,.venv)/bin/python

# What test-all and .ci/run run, in this order; each is a target below.
PARTS := setup lint typecheck test demo-short test-distributed test-slow setup-onedl test-onedl

# The shorter suite that proves another stack: registry and every config, golden values, training steps with checkpoints that are
# resumed and tested, COCO evaluation, safe loading.
SHORT := tests/test_stack.py tests/test_golden.py tests/test_configs.py tests/test_head.py tests/tools/test_train_test.py \
	tests/train/test_safe_loading.py

.PHONY: help setup demo demo-short test test-short test-slow test-distributed test-all setup-onedl test-onedl lint typecheck gpu-smoke clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup: ## the virtual environment .venv with the verified versions (first time about 10 minutes, then seconds)
	@tools/setup_env.sh

demo: setup ## draw the embedded data set, train a small E2E-MF on it, score it and show it (20 minutes at most)
	$(VPY) tools/demo.py

demo-short: setup ## the same with five minutes of training, which is what CI has time for
	$(VPY) tools/demo.py --least-ap 0.02 --cfg-options train_cfg.minutes=5

# Tests run side by side, a file in one process (tests/conftest.py): what a file's tests share is made once.
test: setup ## the test suite (10 minutes at most)
	$(VPY) -m pytest -n auto --dist loadfile -m 'not slow and not distributed'

test-short: setup ## the part of the test suite that depends on the stack
	$(VPY) -m pytest -n auto --dist loadfile -m 'not slow and not distributed' $(SHORT)

test-slow: setup ## the tests marked slow
	$(VPY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'slow and not distributed'

test-distributed: setup ## the tests that start several processes
	$(VPY) -m pytest -m distributed

test-all: ## everything that CI runs, with the minutes of each part
	+@MAKE='$(MAKE)' tools/run_parts.sh $(PARTS)

setup-onedl: ## setup with OneDL's forks, in .venv-onedl
	@$(MAKE) --no-print-directory STACK=onedl setup

test-onedl: ## test-short with OneDL's forks
	@$(MAKE) --no-print-directory STACK=onedl test-short

lint: setup ## ruff
	$(VPY) -m ruff check .

typecheck: setup ## mypy
	$(VPY) -m mypy

gpu-smoke: setup ## a few training steps on a GPU, for someone who has one
	$(VPY) tools/gpu_smoke.py

clean: ## caches and build products; never the environments, data or work_dirs
	rm -rf build dist mmdet_mobileformer.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find mmdet_mobileformer tools tests configs -name __pycache__ -type d -prune -exec rm -rf {} +
