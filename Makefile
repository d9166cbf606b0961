# make demo     set up, then the whole path from generated scenes to a report, on this computer
# make test     set up, then the linter and the test suite (no network needed)
# make setup    a virtual environment in .venv, nothing else
# make lint     ruff and mypy
# make format   let ruff rewrite what it can
# make test-extras  the tests of what needs timm or LPIPS, in an environment of its own, .venv-extras
# make test-eval    the tests of the model of lmms-eval with lmms-eval itself, in .venv-eval
# make clean    remove the environment and all caches; runs/ and data/ stay
#
# Settings:
#   PYTHON=…       the interpreter for .venv (3.11 or newer)
#   CUDA=1         install the CUDA build of torch (after make clean, where the CPU build is installed already);
#                  without it Linux gets the CPU build, which is gigabytes smaller
#   TORCH_INDEX=…  where the CPU build is found; used only if it answers, so that machines without internet
#                  access can offer the wheel through their own pip settings (PIP_FIND_LINKS, PIP_INDEX_URL)

TORCH := 2.13.0
TORCHVISION := 0.28.0
TIMM := 1.0.31
LPIPS := 0.1.4
LMMS_EVAL := 0.7.3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
CUDA ?=
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

# On Linux the registry's torch is the CUDA build. Asking for the build tag "+cpu" can only be met by the CPU build:
# where there is none, the installation stops instead of downloading gigabytes. Elsewhere the plain wheel is for CPU.
ifeq ($(shell uname -s)$(filter 1,$(CUDA)),Linux)
TORCH_BUILD := +cpu
endif

# pip tries an unreachable index for minutes, so ask first, for three seconds at most.
define ANSWERS
import os, signal, ssl, sys, urllib.request
signal.alarm(3)
trust = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
urllib.request.urlopen(sys.argv[1] + "/torch/", context=trust).close()
endef
export ANSWERS

.PHONY: demo test test-extras test-eval setup lint format clean

demo: setup
	$(BIN)/python -m ray_jobs.pipeline --config demo
	@echo; echo "The report: $(CURDIR)/runs/demo/report.html"

test: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder --ignore=tests/jobs --ignore=tests/cluster
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=2 --dist=loadfile --no-loadscope-reorder tests/cluster tests/jobs

# timm and LPIPS need torchvision, whose wheel brings no CUDA package of its own and works beside the CPU build of torch only with
# the trick of tests/extras/conftest.py; in .venv it would break transformers. The rest is taken from .venv.
test-extras: .venv-extras/.installed
	.venv-extras/bin/python -m pytest tests/extras

.venv-extras/.installed: $(VENV)/.installed
	test -x .venv-extras/bin/python || $(BIN)/python -m venv .venv-extras
	.venv-extras/bin/python -m pip install --no-deps "timm==$(TIMM)" "torchvision==$(TORCHVISION)" "lpips==$(LPIPS)"
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > \
	  "$$(.venv-extras/bin/python -c 'import site; print(site.getsitepackages()[0])')/shared.pth"
	@touch $@

# lmms-eval asks for torchvision, timm, a wandb of its own and more, of which our model and tasks on pictures need nothing.
# What it imports in any case is installed here; the rest is taken from .venv. The project itself is installed for its entry point.
test-eval: .venv-eval/.installed
	.venv-eval/bin/python -m pytest tests/harness

.venv-eval/.installed: $(VENV)/.installed
	test -x .venv-eval/bin/python || $(BIN)/python -m venv .venv-eval
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > \
	  "$$(.venv-eval/bin/python -c 'import site; print(site.getsitepackages()[0])')/shared.pth"
	.venv-eval/bin/python -m pip install --no-deps "lmms-eval==$(LMMS_EVAL)" -e .
	.venv-eval/bin/python -m pip install -c constraints.txt "torch==$(TORCH)" evaluate loguru pytablewriter pytz sacrebleu tenacity
	@touch $@

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

format: setup
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found: install Python 3.11 or newer, or say make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1), and SeTok needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@index=; \
	if [ -n "$(TORCH_BUILD)" ]; then \
	  if $(BIN)/python -c "$$ANSWERS" "$(TORCH_INDEX)" 2>/dev/null; then index="--extra-index-url $(TORCH_INDEX)"; \
	  else echo "$(TORCH_INDEX) does not answer: taking torch from where pip is set up to look"; fi; \
	fi; \
	set -x; \
	DS_BUILD_OPS=0 $(BIN)/python -m pip install $$index -c constraints.txt "torch==$(TORCH)$(TORCH_BUILD)" -e ".[dev,tracking,cluster]" || { \
	  set +x; echo; echo "The installation failed; pip's message is above."; \
	  [ -z "$(TORCH_BUILD)" ] || echo "If it found no torch==$(TORCH)+cpu: set TORCH_INDEX to a mirror, PIP_FIND_LINKS to a folder with that wheel, or CUDA=1 for the CUDA build."; \
	  exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) .venv-extras .venv-eval build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find setok ray_jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +
