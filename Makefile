# Every target makes .venv first when it is absent; PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SOURCES := society providers finetune evals store

# Many tests start Python anew; without its cache each of them would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long lint pytest bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[api,local,gguf,quantized,diversity,report,view,dev]'
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
	$(BIN)/pytest -n 5 --dist loadfile --no-loadscope-reorder

test-long: $(READY)
	$(BIN)/pytest -n 2 --dist load -m long

bench: $(READY)
	for bench in benchmarks/*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(SOURCES) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
