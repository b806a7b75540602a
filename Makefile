# Everything from a machine with Python 3.11 or newer, pip, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check docs bench lock clean

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv>=0.9"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable . 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

demo: $(VENV)/.ready
	cd examples/flights && ../../$(BIN)/meguri replay --from 2013-03-01 --to 2014-01-01 --score-from 2013-04-01 --always 30d

test: $(VENV)/.ready
	$(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=term-missing:skip-covered

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_house.py tests/test_docs.py

docs: $(VENV)/.ready
	$(BIN)/pytest -q tests/test_docs.py

bench: $(VENV)/.ready
	for script in bench/*.py; do $(BIN)/python $$script; done

# The lock holds hashes and no address, so that it installs from whatever index the machine uses.
# What .ci/run tests Spark and BigQuery with has locks of its own, as it is large and few need it. The serving image's
# have the versions that are tested.
COMPILE := $(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet
lock: $(VENV)/.ready
	$(COMPILE) pyproject.toml --extra all --group dev --group demo -o requirements.lock
	$(COMPILE) pyproject.toml --extra all --extra spark --extra bigquery --group dev -o .ci/engines.lock
	$(COMPILE) --group emulator -o .ci/emulator.lock
	$(COMPILE) pyproject.toml --extra serve --group image --constraints requirements.lock -o deploy/serve.lock
	$(COMPILE) --group build --constraints requirements.lock -o deploy/build.lock
	$(COMPILE) --group frames --constraints requirements.lock -o deploy/frames.lock

clean:
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache
