# `make search` and `make test` set up all they need: Python 3.11 or newer and make. `make features` adds what `lfvd extract`
# takes; `make bench` measures, `make chaos` kills a search 20 times, `make fuzz` feeds 200,000 hostile files.
PYTHON ?= python3
BIN := .venv/bin
DATA := data/demo.safetensors

.PHONY: install features search test bench chaos fuzz lint

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12 install")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

features: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[features,test,test-features]'

search: install $(DATA)
	$(BIN)/lfvd-tune search search_spaces/demo.yaml --data $(DATA) --name demo

$(DATA): | install
	$(BIN)/lfvd simulate --like meld --dialogues 160 --seed 0 --out $@

test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

bench: install
	$(BIN)/python tests/benchmarks/bench.py

chaos: install
	$(BIN)/python -m tests.tune.test_chaos --kills 20

fuzz: install
	$(BIN)/python tests/fuzz/run.py --inputs 200000

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
