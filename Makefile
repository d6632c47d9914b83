# Every target makes .venv first when it is absent; PYTHON picks the interpreter (3.11 or newer).
# An environment keeps the interpreter that it was made with: `make VENV=.venv-3.13 PYTHON=python3.13 pytest`
# makes another beside it. VENV is not read from the environment, where other programs may set it.
PYTHON ?= python3
VENV = .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := society providers finetune evals store
# Servers that nobody here wrote are installed here, each in an environment of its own.
export SOCIETY_TEST_SERVERS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/society/servers

# Many tests start Python anew; without its cache each of them would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long test-servers lint pytest bench docs clean

# The pip that Python 3.11 brings takes minutes to choose among so many packages, a newer one seconds.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --upgrade-deps $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[api,bedrock,gemini,tinker,local,gguf,quantized,diversity,report,telemetry,tensorboard,view,ray,dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/society run demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# At the same time: mypy keeps one core busy at most.
test: $(READY)
	$(MAKE) --jobs 2 lint pytest

pytest: $(READY)
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder

# Importing all files to find the long tests in some takes a minute.
LONG = $(shell grep -lr --include='test_*.py' 'mark\.long' tests)
# The longest have limits of their own; a slow or busy machine must not fail the others.
test-long: $(READY)
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder -m long -o timeout=1200 $(LONG)

# Skips with the reason where a server cannot be installed.
test-servers: $(READY)
	$(BIN)/python -m tests.servers.environments
	$(BIN)/pytest -m servers tests/servers

# All that runs by itself: `families` takes hours, `means` and `stopping` read runs that one names.
# To the end in one go, whatever misses its goal on the way.
BENCHES = $(filter-out %/families.py %/means.py %/stopping.py,$(shell grep -l __main__ benchmarks/*.py))
bench: $(READY)
	@missed=; for bench in $(BENCHES); do echo "== $$bench"; \
		$(BIN)/python $$bench || missed="$$missed $$bench"; done; \
		test -z "$$missed" || { echo "failed, or missed a goal:$$missed"; exit 1; }

# The pages are written to site/; a warning ends the build.
docs: $(READY)
	$(BIN)/zensical build --strict --clean

clean:
	rm -rf .venv .venv-* dist site .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(SOURCES) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
