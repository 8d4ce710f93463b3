# Every target sets itself up: make, a Python of 3.11 or later and a package index are enough.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEPS   := pyproject.toml Makefile
export KERAS_BACKEND := jax
export TF_CPP_MIN_LOG_LEVEL := 3

.PHONY: run run-lm test lint docs bench conformance test-newest clean

run: $(VENV)/.examples  ## train on real digits, save, load in a new process, predict
	$(BIN)/python examples/digits.py train
	$(BIN)/python examples/digits.py predict

run-lm: $(VENV)/.examples  ## train two language models on Python's library, or go on; ARGS=--fresh
	$(BIN)/python examples/language_model.py $(ARGS)

test conformance: export JAX_PLATFORMS = cpu

test: $(VENV)/.test  ## all tests, docs' and docstrings' examples included
	$(BIN)/python -m pytest -n auto --dist worksteal -q -m "not conformance" $(ARGS)

lint: $(VENV)/.lint  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.docs  ## the site, under site/
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.bench  ## against JAX libraries and torch; ROW="lstm conv", ARGS=--resume
	$(BIN)/python -m bench $(ROW) $(ARGS)

conformance: $(VENV)/.conformance  ## the same weights in PyTorch
	$(BIN)/python -m pytest -n auto -q -m conformance tests/conformance tests/bench/test_bench_steps.py

# The newest JAX may want a newer Python: tested where one is on the machine. What a newer JAX may break are
# the laws of every layer, the errors and the docs; that algorithms are equal has just been tested, with all
# of XLA's optimisations.
NEWEST := tests/base tests/sequences tests/decoding tests/data tests/checkpoint tests/training tests/inspection \
    $(addprefix tests/layers/test_,laws.py attention_layers.py recurrent_options.py) tests/core/test_core.py \
    $(addprefix tests/test_,docs.py example.py language_model.py)
test-newest:
	@newer=$$(sh tools/newer_python.sh) || { echo "no Python of 3.12 or later: skipped"; exit 0; }; \
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(MAKE) test PYTHON=$$newer VENV=.venv-newest ARGS="$(NEWEST)"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(VENV)/.examples: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[examples]' && touch $@

$(VENV)/.test: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[test]' && touch $@

$(VENV)/.lint: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[lint]' && touch $@

$(VENV)/.docs: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[docs]' && touch $@

# Every framework that is measured; torch as for conformance.
$(VENV)/.bench: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[bench]' torch==2.13.0 && touch $@

# The exact version: a plain "torch" may bring gigabytes for a GPU that is not there.
$(VENV)/.conformance: $(VENV)/.test
	$(BIN)/python -m pip install -q torch==2.13.0 && touch $@

clean:
	rm -rf $(VENV) .venv-newest site runs
