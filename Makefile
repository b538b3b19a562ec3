# `make demo` and `make test` do everything from a fresh clone: virtual environment and pinned dependencies included.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PYTHONSAFEPATH := 1
export DS_ACCELERATOR ?= $(shell test -e /dev/nvidiactl && echo cuda || echo cpu)

.PHONY: help install demo slurm-demo test lint check pictures format clean
help:
	@echo "make install  virtual environment in $(VENV) with everything pinned"
	@echo "make demo     trains on the built-in corpus with 2 processes and ZeRO-2, translates, prints BLEU (3 minutes)"
	@echo "make slurm-demo  the same on a SLURM of two nodes on this machine, preempted (as root, 4 minutes)"
	@echo "make test     all tests"
	@echo "make check    lint, types and the fast tests (under 3 minutes)"
	@echo "make lint     lint and types alone"
	@echo "make format   formats the code"
	@echo "make pictures draws docs/pictures again from docs/draw.py"

install: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

DEMO := runs/quickstart
demo: install
	$(BIN)/dragoman train configs/quickstart.yaml --processes 2
	$(BIN)/python -m trainer.data.corpora.phrasebook test $(DEMO)/held_out
	@echo; echo "Sentences that the training never saw:"
	@( echo "Je suis étudiant."; head -n 7 $(DEMO)/held_out/test.fr ) > $(DEMO)/held_out/sample.fr
	$(BIN)/dragoman translate $(DEMO) < $(DEMO)/held_out/sample.fr | paste $(DEMO)/held_out/sample.fr -
	@echo; echo "All of them (1,600, made by the same grammar):"
	$(BIN)/dragoman evaluate $(DEMO) --source $(DEMO)/held_out/test.fr --reference $(DEMO)/held_out/test.en

slurm-demo: install
	$(BIN)/python slurm/local_cluster.py demo /tmp/dragoman-slurm

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not gpu"

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pictures: install
	$(BIN)/python docs/draw.py

clean:
	rm -rf runs $(VENV)
